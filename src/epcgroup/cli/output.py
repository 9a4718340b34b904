"""How a run set leaves the command line: table or JSON on standard output, a file to reload, a page."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from epcgroup.errors import InputError
from epcgroup.report import html, text
from epcgroup.trace import RunSet


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON instead of the table")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a self-contained page that opens offline")


def check_writable(*files: Path | None) -> None:
    """Refuse before a long run what could not be written after it."""
    for file in files:
        if file is None:
            continue
        if file.is_dir():
            raise InputError("is a folder; a file name is needed", where=file)
        if not file.parent.is_dir():
            raise InputError(f"no such folder: {file.parent}", where=file)
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise InputError("may not be written", where=file)


def write(run_set: RunSet, args: argparse.Namespace) -> None:
    """Print, and write the files that were asked for."""
    if args.html is not None:
        args.html.write_text(html.page(run_set), encoding="utf-8")
    if args.json:
        json.dump(text.as_json(run_set), sys.stdout, indent=1)
        print()
    else:
        tty = sys.stdout.isatty()
        width = max(80, shutil.get_terminal_size((100, 24)).columns) if tty else 100
        print(text.render(run_set, width=width, color=tty and "NO_COLOR" not in os.environ))
    if args.html is not None:
        print(f"page: {args.html}", file=sys.stderr)
