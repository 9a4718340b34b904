"""What this host can do: the needs of the live daemon, each tried, and what would help where one is not met.

Exit status 0 when `epcgroup up` can run here, 1 when it cannot.
"""

import argparse
import json
import sys

from epcgroup.live import probe


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the findings as JSON")


def main(args: argparse.Namespace) -> int:
    findings = probe.survey()
    if args.json:
        json.dump([finding._asdict() for finding in findings], sys.stdout, indent=1)
        print()
    else:
        print("live:")
        for finding in findings:
            mark = "ok " if finding.ok else "NO " if finding.needed else "-  "
            print(f"  {mark} {finding.name:<13} {finding.found}" + ("" if finding.ok else f"; {finding.remedy}"))
    return 0 if all(finding.ok or not finding.needed for finding in findings) else 1
