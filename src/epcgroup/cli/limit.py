"""Limit the EPC memory of a cgroup while its processes run, as a write to its misc.max.

GROUP is its path in cgroup2, e.g. /pod1. A limit below what the group uses frees nothing by itself (series v17): the
group's next page does.
"""

import argparse

from epcgroup.cli import daemon
from epcgroup.live import cgroups


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", metavar="GROUP")
    parser.add_argument("limit", metavar="SIZE|max")
    daemon.set_arguments(parser)


def main(args: argparse.Namespace) -> int:
    cgroups.check_path(args.group, "GROUP")
    daemon.set_limit(args.directory, args.group, daemon.parse_limit(args.limit, "SIZE"))
    return 0
