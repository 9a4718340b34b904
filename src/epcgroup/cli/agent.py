"""Hold the pods and containers of this node to their EPC, and serve metrics: what runs on every SGX node.

By default it only observes. FILE is TOML and says where pods come from, what is to be enforced, and where metrics are
served. It runs until SIGTERM; --once looks once, prints what it found and did, and ends.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the configuration (TOML)")
    parser.add_argument("--once", action="store_true", help="one look; print every limit and what became of it")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    parser.add_argument("--resource", metavar="NAME", help="of the misc controller (default: FILE's, or sgx_epc)")


def main(args: argparse.Namespace) -> int:
    from epcgroup.agent import config, run

    loaded = config.load(args.config)
    if args.resource is not None:
        loaded = replace(loaded, resource=config.resource(args.resource, key="--resource"))
    if args.once:
        agent = run.reconciler(loaded, _say, dry_run=args.dry_run)
        print("\n".join(run.report(agent, agent.turn(), loaded.reserve_bytes)))
    else:
        run.run(loaded, _say, dry_run=args.dry_run)
    return 0


def _say(line: str) -> None:
    print(f"epcgroup: {line}", file=sys.stderr, flush=True)
