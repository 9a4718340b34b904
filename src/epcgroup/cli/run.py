"""Simulate pods on an SGX node: each alone, all without limits, all with EPC limits; a table says who pages whom.
With --live also run them: real processes, paged on a pool of real memory, the prediction beside what was measured.

INPUT is Kubernetes manifests, folders of them, OCI config.json files, or one scenario (.toml). A manifest says
what a pod claims, not what it does: unless --use says otherwise, a pod touches exactly what it claims,
uniformly, with one thread, and its limit is its claim.
"""

import argparse
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from epcgroup import manifest
from epcgroup.cli import output
from epcgroup.errors import InputError, nearest
from epcgroup.sim.cost import PROFILE_NAMES
from epcgroup.units import PAGE_SIZE, format_bytes, parse_bytes, parse_duration

if TYPE_CHECKING:
    from epcgroup.sim.plan import NodePlan, Plan, PodPlan

DEFAULT_EPC = "128Mi"
LEAST_DURATION = 2.0  # seconds, besides building the largest enclave


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", nargs="+", metavar="INPUT", help="manifest, folder, OCI config.json, or scenario.toml")
    node = parser.add_argument_group("node")
    sizes = f"EPC of each NUMA node, e.g. 128Mi or 64Gi,64Gi (default {DEFAULT_EPC})"
    node.add_argument("--epc", metavar="SIZE[,SIZE...]", help=sizes)
    node.add_argument("--cpus", metavar="N", help="logical CPUs (default 8)")
    node.add_argument("--costs", metavar="PROFILE", help=f"cost profile: {', '.join(PROFILE_NAMES)}")
    node.add_argument("--cost", metavar="ITEM=CYCLES", action="append", default=[], help="override a cost")
    pods = parser.add_argument_group("pods and limits")
    use = "what a pod touches, e.g. web=96Mi:zipf"
    pods.add_argument("--use", metavar="POD=SIZE[:WORKLOAD]", action="append", default=[], help=use)
    pods.add_argument("--limits", metavar="claims|none|FILE", help="limits of the last run (default: claims)")
    pods.add_argument("--series", choices=("v17", "v2"), help="series of the run with limits (default v17)")
    run = parser.add_argument_group("run")
    run.add_argument("--duration", metavar="TIME", help="simulated time, e.g. 10s (default: the builds and 2 s)")
    run.add_argument("--seed", metavar="N", help="seed of all workloads (default 1)")
    run.add_argument("--live", action="store_true", help="run it with real processes too (needs root, userfaultfd)")
    run.add_argument("--copy-out", action="store_true", help="with --live: see touches exactly, at a higher cost")
    run.add_argument("--save", metavar="RUN", type=Path, help="keep the run for `epcgroup report RUN`")
    run.add_argument("--quiet", action="store_true", help="no progress on standard error")
    output.set_arguments(run)  # type: ignore[arg-type]


def main(args: argparse.Namespace) -> int:
    output.check_writable(args.save, args.html)
    started = time.perf_counter()
    if args.copy_out and not args.live:
        raise InputError("goes with --live", where="--copy-out")
    if args.live and args.cpus is not None:
        raise InputError("does not go with --live: processes run on this host's CPUs", where="--cpus")
    plan = _plan(args)
    if args.live:
        from epcgroup.enact.fit import fitted

        plan = fitted(plan)
    _say_if_compiling(args.quiet)
    bar = None if args.quiet else _Progress(started)
    command = f"epcgroup run {shlex.join(sys.argv[2:])}"
    # These load the engine: after the input has been looked at.
    if args.live:
        from epcgroup.enact.run import predict_and_measure

        run_set = predict_and_measure(plan, bar, command, pageout=not args.copy_out)
    else:
        from epcgroup.sim.run import simulate

        run_set = simulate(plan, bar, command)
    if bar is not None:
        bar.clear()
    if args.save is not None:
        run_set.save(args.save)
    output.write(run_set, args)
    return 130 if any((run.ended_early or "").startswith("interrupted") for run in run_set.runs) else 0


# ---- the plan -------------------------------------------------------------------------------------


def _plan(args: argparse.Namespace) -> "Plan":
    scenarios = [path for path in args.input if path.endswith(".toml")]
    if scenarios:
        if len(args.input) > 1:
            raise InputError(f"a scenario stands alone; {len(args.input)} inputs were given", where=scenarios[0])
        from epcgroup.sim import scenario

        plan = scenario.read(Path(scenarios[0]))
        if args.use:
            raise InputError("goes with manifests; a scenario says what its pods use", where="--use")
    else:
        plan = _from_manifests(args)
    return _overridden(plan, args)


def _from_manifests(args: argparse.Namespace) -> "Plan":
    from epcgroup.sim.plan import NodePlan, Plan, SectionPlan, pods_from_manifests

    pods, skipped = manifest.read([Path(path) for path in args.input])
    for skip in skipped:
        print(f"epcgroup: skipped {skip.origin}: {skip.reason}", file=sys.stderr)
    if not pods:
        raise InputError("no pod that asks for SGX EPC in what was given")
    uses = {}
    for text in args.use:
        name, equals, use = text.partition("=")
        if not equals or not name:
            raise InputError(f'"{text}" is not POD=SIZE[:WORKLOAD], e.g. web=96Mi:zipf', where="--use")
        uses[name] = use
    plans, notes = pods_from_manifests(pods, uses)
    if not any(pod.containers for pod in plans):
        raise InputError("; ".join(notes) or "nothing here uses EPC")
    epc = parse_bytes(DEFAULT_EPC)
    if args.epc is None:
        notes.append(f"--epc not given: a node with {format_bytes(epc)}")
    default = "a pod touches exactly what it claims, uniformly, with one thread"
    notes.append(f"{default}, unless --use or an annotation says otherwise")
    node = NodePlan((SectionPlan(0, epc),))
    title = ", ".join(Path(path).name for path in args.input[:3]) + (", ..." if len(args.input) > 3 else "")
    return Plan(title, node, tuple(plans), duration=0.0, notes=tuple(notes))


def _overridden(plan: "Plan", args: argparse.Namespace) -> "Plan":
    """The plan with what the command line says."""
    from epcgroup.sim import cost
    from epcgroup.sim.plan import SectionPlan

    node = plan.node
    if args.epc is not None:
        sizes = [_epc(size) for size in args.epc.split(",")]
        node = replace(node, sections=tuple(SectionPlan(i, size) for i, size in enumerate(sizes)))
    if args.cpus is not None:
        node = replace(node, cpus=_whole(args.cpus, "--cpus", 1, 4096))
    # What SGX costs says nothing about live paging, whoever chose it.
    profile = args.costs or ("live" if args.live else None)
    costs = node.costs if profile is None else cost.profile(profile, where="--costs")
    if args.cost:
        changes = {}
        for text in args.cost:
            item, _, cycles = text.partition("=")
            try:
                changes[item] = float(cycles)
            except ValueError:
                raise InputError(f'"{text}" is not ITEM=CYCLES, e.g. ewb=15000', where="--cost") from None
        costs = cost.override(costs, changes, where="--cost")
    node = replace(node, costs=costs)
    plan = replace(plan, node=node)
    if args.seed is not None:
        plan = replace(plan, seed=_whole(args.seed, "--seed", 0, 2**63 - 1))
    if args.series is not None:
        plan = replace(plan, series=args.series)
    if args.limits == "none":
        plan = replace(plan, compare=tuple(what for what in plan.compare if what in ("alone", "none")))
    elif args.limits not in (None, "claims"):
        if not Path(args.limits).exists():
            known = f'{nearest(args.limits, ("claims", "none"))} or a TOML file with limits'
            raise InputError(f'"{args.limits}" is no file{known}', where="--limits")
        from epcgroup.sim import scenario

        plan = replace(plan, limits={**plan.limits, **scenario.read_limits(Path(args.limits))})
    if args.duration is not None:
        plan = replace(plan, duration=_duration(args.duration))
    elif plan.duration == 0:
        plan = replace(plan, duration=_default_duration(plan.pods, node))
    return plan


def _epc(text: str) -> int:
    size = parse_bytes(text, where="--epc")
    if not PAGE_SIZE <= size <= 1 << 43:
        raise InputError(f"{text.strip()} is not between 4Ki (a page) and 8Ti", where="--epc")
    return size


def _whole(text: str, option: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not least <= int(text) <= most:
        raise InputError(f'"{text}" is not a whole number from {least} to {most}', where=option)
    return int(text)


def _duration(text: str) -> float:
    seconds = parse_duration(text, where="--duration")
    if not 1e-3 <= seconds <= 1e6:
        raise InputError(f'"{text}" is not between 1ms and 1000000s', where="--duration")
    return seconds


def _default_duration(pods: "tuple[PodPlan, ...]", node: "NodePlan") -> float:
    """Building the slowest pod (EADD and 16 EEXTEND a page), and two seconds of its work."""
    page = node.costs.nanoseconds(node.costs.cycles("eadd") + 16 * node.costs.cycles("eextend")) / 1e9
    longest = max(sum(c.use_bytes for c in pod.containers) / PAGE_SIZE for pod in pods)
    return round(longest * page * 1.25 + LEAST_DURATION, 1)


# ---- what a person sees meanwhile -----------------------------------------------------------------


def _say_if_compiling(quiet: bool) -> None:
    from epcgroup.machine import is_compiled

    if not quiet and not is_compiled():
        print("epcgroup: first run: compiling the machine, some 15 s; kept for the next runs", file=sys.stderr)


class _Progress:
    """A bar on standard error, if that is a terminal and the run takes longer than a moment."""

    def __init__(self, started: float) -> None:
        self._tty = sys.stderr.isatty()
        self._started = started
        self._shown = 0.0

    def __call__(self, label: str, share: float) -> None:
        now = time.perf_counter()
        if not self._tty or now - self._started < 1 or now - self._shown < 0.1:
            return
        self._shown = now
        done = int(share * 30)
        print(f"\r{label[:30]:<30} [{'#' * done}{'.' * (30 - done)}] {share:4.0%}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print("\r" + " " * 70 + "\r", end="", file=sys.stderr, flush=True)
