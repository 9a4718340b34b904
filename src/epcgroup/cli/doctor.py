"""What this host can do, and what would help where it cannot: `live` for `epcgroup up`, `node` for `epcgroup agent`.

Exit status 0 when `epcgroup up` can run here (live), when the agent can hold containers to limits (node), else 1.
Without a part both are shown, and the status is that of live.
"""

import argparse
import json
import sys
from pathlib import Path


def set_arguments(parser: argparse.ArgumentParser) -> None:
    choices = ("live", "node")
    parser.add_argument("part", nargs="?", metavar="PART", choices=choices, help="live or node (default: both)")
    parser.add_argument("--json", action="store_true", help="the findings as JSON, a list for each part")
    node = parser.add_argument_group("node")
    node.add_argument("--root", metavar="DIR", type=Path, default=Path("/"), help="the host's root (default /)")
    node.add_argument("--cgroup-root", metavar="DIR", type=Path, help="its cgroup2 tree (default: where it is mounted)")
    node.add_argument("--resource", metavar="NAME", default="sgx_epc", help="of the misc controller (default sgx_epc)")


def main(args: argparse.Namespace) -> int:
    parts: dict[str, list[dict[str, object]]] = {}
    shown = []
    status = 0
    if args.part != "live":
        from epcgroup.agent import config, node

        resource = config.resource(args.resource, key="--resource")
        facts = node.survey(args.root, cgroup_root=args.cgroup_root, resource=resource)
        parts["node"] = [fact._asdict() for fact in facts]
        shown.append("node:")
        for fact in facts:
            shown.append(f"  {fact.state:<7} {fact.name:<17} {fact.found}")
            shown += [f"{'':27} {fact.follows}"] if fact.follows else []
        status = 0 if node.enforceable(facts) else 1
    if args.part != "node":
        from epcgroup.live import probe

        needs = probe.survey()
        parts["live"] = [need._asdict() for need in needs]
        shown.append("live:")
        for need in needs:
            mark = "ok " if need.ok else "NO " if need.needed else "-  "
            shown.append(f"  {mark} {need.name:<13} {need.found}" + ("" if need.ok else f"; {need.remedy}"))
        status = 0 if all(need.ok or not need.needed for need in needs) else 1
    if args.json:
        json.dump(parts, sys.stdout, indent=1)
        print()
    else:
        print("\n".join(shown))
    return status
