"""Show a run that was kept with `epcgroup run --save RUN`: the table again, as JSON, or as a page."""

import argparse
from pathlib import Path

from epcgroup.cli import output
from epcgroup.trace import RunSet


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="file written by `epcgroup run --save`")
    output.set_arguments(parser)


def main(args: argparse.Namespace) -> int:
    output.check_writable(args.html)
    output.write(RunSet.load(args.run), args)
    return 0
