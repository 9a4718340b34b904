"""Show the live daemon's pool: what each group and enclave uses, may use, and has been paged."""

import argparse
import json
import sys
from typing import Any

from epcgroup.cli import daemon
from epcgroup.units import format_bytes


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="all counters, sizes in bytes")
    daemon.set_arguments(parser)


def main(args: argparse.Namespace) -> int:
    found = daemon.status(args.directory)
    if args.json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        # A group's name need not be text.
        print(render(found).encode(errors="backslashreplace").decode())
    return 0


def render(found: dict[str, Any]) -> str:
    """The table of a status."""
    free, size = format_bytes(found["free"]), format_bytes(found["epc"])
    lines = [f"EPC pool of {size}, {free} free, series {found['series']}, daemon {found['pid']}", ""]
    rows: list[tuple[str, ...]] = [("GROUP", "MAX", "CURRENT", "PEAK", "REFUSED", "LOADS", "WRITE-OUTS")]
    for path, group in found["groups"].items():
        rows.append(
            (
                path,
                "max" if group["max"] is None else format_bytes(group["max"]),
                format_bytes(group["current"]),
                "-" if group["peak"] is None else format_bytes(group["peak"]),
                *(str(group[name]) for name in ("refused", "loads", "write_outs")),
            )
        )
    lines += _aligned(rows)
    if found["enclaves"]:
        rows = [("ENCLAVE", "PID", "GROUP", "SIZE", "IN POOL", "LOADS", "WRITE-OUTS")]
        for e in found["enclaves"]:
            sizes = format_bytes(e["size"]), format_bytes(e["in_pool"])
            rows.append((str(e["number"]), str(e["pid"]), e["group"], *sizes, str(e["loads"]), str(e["write_outs"])))
        lines += ["", *_aligned(rows)]
    return "\n".join(lines)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        right = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right]))
    return lines
