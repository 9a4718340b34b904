"""What of a plan real processes of this host can carry out: the rest is refused in one line, or noted.

Refused is what would silently become something else; noted is what live runs do differently but comparably.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from epcgroup.errors import InputError
from epcgroup.live import cgroups, probe
from epcgroup.live.pool import LEAST_BYTES, MOST_BYTES
from epcgroup.sim.plan import Plan, PodPlan, SectionPlan
from epcgroup.sim.workload import Bursts, Grow, Phases, TraceReplay, WorkloadSpec
from epcgroup.units import format_bytes

MAX_CLIENTS, MAX_THREADS = 64, 256
CLIENT_BYTES = 64 << 20  # of memory that a client process takes besides its enclaves


def fitted(plan: Plan) -> Plan:
    """The plan for this host and its CPUs, with notes on what changed. InputError: it cannot be carried out here."""
    for pod in plan.pods:
        _check_pod(pod)
    epc = plan.node.epc_bytes
    if not LEAST_BYTES <= epc <= MOST_BYTES:
        least, most = format_bytes(LEAST_BYTES), format_bytes(MOST_BYTES)
        raise InputError(f"a live pool of {format_bytes(epc)}; {least} to {most} are possible", where="--live")
    containers = [c for pod in plan.pods for c in pod.containers]
    threads = sum(c.enclaves * c.threads for c in containers)
    if len(containers) > MAX_CLIENTS or threads > MAX_THREADS:
        raise InputError(
            f"{len(containers)} client processes with {threads} threads; at most {MAX_CLIENTS} with {MAX_THREADS}",
            where="--live",
        )
    _check_host()
    # A page is in the pool, or sealed in the daemon.
    needed = sum(pod.use_bytes for pod in plan.pods) + CLIENT_BYTES * len(containers)
    if needed > (free := _available_bytes()):
        raise InputError(f"{format_bytes(needed)} of memory are needed, {format_bytes(free)} are free", where="--live")
    notes = []
    cpus = len(os.sched_getaffinity(0))
    if cpus != plan.node.cpus:
        notes.append(f"simulated with this host's CPUs ({cpus} instead of {plan.node.cpus})")
    if len(plan.node.sections) > 1 or any(pod.numa is not None for pod in plan.pods):
        notes.append("simulated and live without NUMA: one EPC section")
    node = replace(plan.node, sections=(SectionPlan(0, epc),), cpus=cpus)
    pods = tuple(replace(pod, numa=None) for pod in plan.pods)
    return replace(plan, node=node, pods=pods, notes=(*plan.notes, *notes))


def _check_host() -> None:
    lacking = probe.missing()
    if lacking is not None:
        raise InputError(lacking, where="--live")
    cgroups.needed_mount_point("--live")


def _check_pod(pod: PodPlan) -> None:
    def refuse(what: str) -> InputError:
        return InputError(f"{what}; epcgroup run without --live simulates it", where="--live", key=pod.name)

    if {".", ".."} & set(pod.path.split("/")):
        raise refuse(f'its cgroup "{pod.path}" leads elsewhere')
    for c in pod.containers:
        if c.vepc:
            raise refuse("a guest's virtual EPC cannot be had live")
        for spec in _all_of(c.workload):
            if isinstance(spec, Grow) and spec.shrink_at is not None:
                raise refuse("gives pages back (shrink_at), which live clients cannot")
            if isinstance(spec, TraceReplay) and spec.file == "-":
                raise refuse("a trace from standard input cannot be read by a client process")


def _all_of(spec: WorkloadSpec) -> Iterator[WorkloadSpec]:
    """A workload and those it is made of."""
    yield spec
    if isinstance(spec, Bursts):
        yield from _all_of(spec.of)
    elif isinstance(spec, Phases):
        for phase in spec.phases:
            yield from _all_of(phase.of)


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
