"""Hold the pods and containers of this node to their EPC, and serve metrics: what runs on every SGX node.

By default it only observes. FILE is TOML and says where pods come from, what is to be enforced, and where metrics are
served. It runs until SIGTERM; --once looks once, prints what it found and did, and ends; --recommend prints the limits
that the peaks of use recommend, as annotations, and writes nothing; --crio prints the limits that there are as
annotations that CRI-O carries out without an agent.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from epcgroup.errors import InputError
from epcgroup.units import quoted

MOST_HEADROOM = 1000  # percent


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the configuration (TOML)")
    parser.add_argument("--once", action="store_true", help="one look; print every limit and what became of it")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    parser.add_argument("--recommend", action="store_true", help="print limits by the peaks of use; write nothing")
    parser.add_argument("--crio", action="store_true", help="print limits as CRI-O's annotations; write nothing")
    parser.add_argument("--headroom", metavar="PERCENT", help="that --recommend adds to a peak (default 25)")
    parser.add_argument("--resource", metavar="NAME", help="of the misc controller (default: FILE's, or sgx_epc)")


def main(args: argparse.Namespace) -> int:
    from epcgroup.agent import config, run
    from epcgroup.agent.recommend import HEADROOM_PERCENT

    if args.headroom is not None and not args.recommend:
        raise InputError("--headroom is for --recommend")
    if args.recommend and (args.once or args.dry_run):
        raise InputError("--recommend looks once and writes nothing: it goes with neither --once nor --dry-run")
    if args.crio and (args.once or args.dry_run or args.recommend):
        raise InputError("--crio prints what the source of pods says, and goes with no other look")
    loaded = config.load(args.config)
    if args.resource is not None:
        loaded = replace(loaded, resource=config.resource(args.resource, key="--resource"))
    if args.once or args.recommend:
        loaded.source.look()  # an agent that stays waits for its source; one look without it would know no pods
    if args.crio:
        print("\n".join(run.crio_annotations(loaded, _say)))
    elif args.recommend:
        headroom = _percent(args.headroom) if args.headroom is not None else HEADROOM_PERCENT
        agent = run.reconciler(replace(loaded, rules=replace(loaded.rules, mode="observe", namespaces={})), _say)
        print("\n".join(run.recommendation(agent, agent.turn(), loaded.reserve_bytes, headroom)))
    elif args.once:
        agent, snapshot = run.look_once(loaded, _say, dry_run=args.dry_run)
        print("\n".join(run.report(agent, snapshot, loaded.reserve_bytes)))
    else:
        run.run(loaded, _say, dry_run=args.dry_run)
    return 0


def _percent(text: str) -> int:
    digits = text.removesuffix("%")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 4 and int(digits) <= MOST_HEADROOM):
        raise InputError(f"{quoted(text)} is not a percentage from 0 to {MOST_HEADROOM}", key="--headroom")
    return int(digits)


def _say(line: str) -> None:
    sys.stderr.write(f"epcgroup: {line}\n")  # one write, as several threads say something
    sys.stderr.flush()
