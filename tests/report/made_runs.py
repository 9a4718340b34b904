"""Run records made by arithmetic, shaped like those of a node: what the tests of this room report on.

`pod` gives one pod's record from its steady rates; `noisy_neighbour` and `crowd` are whole run sets.
"""

import math
from dataclasses import replace
from typing import Any

from epcgroup.trace import STALL_BUCKETS, Event, PodRun, Run, RunSet

MIB = 1 << 20
EPC = 128 * MIB
CPU_HZ = 3.0e9
RELOAD_SECONDS = 41_300 / CPU_HZ


def histogram(page_ins: int) -> list[int]:
    """Most stalls are one reload of 13.8 us (bucket 54), two in a hundred wait behind another (65: up to
    92.7 us)."""
    stalls = [0] * STALL_BUCKETS
    stalls[54] = page_ins - page_ins // 50
    stalls[65] = page_ins // 50
    return stalls if page_ins else []


def pod(
    name: str,
    *,
    claim: float | None,
    use: float,
    limit: float | None = None,
    held: float | None = None,
    page_ins: int = 0,
    others: float = 0.0,
    busy: float = 8.0,
    stall: float = 0.0,
    touches_per_busy: float = 1e6,
    duration: float = 10.0,
    samples: int = 200,
    **more: Any,
) -> PodRun:
    """Sizes in MiB. The pod fills up to `held` in 0.8 s, then pages evenly with a slow swing of 10 %."""
    top = (held if held is not None else use) * MIB
    touches = int(busy * touches_per_busy)
    times = [duration * (i + 1) / samples for i in range(samples)]
    steady = [max(0.0, (t - 0.8) / (duration - 0.8)) for t in times]
    swing = [f + 0.01 * math.sin(4 * math.pi * f) if 0 < f < 1 else f for f in steady]
    return PodRun(
        name=name,
        cgroup=f"/kubepods/pod-{name}",
        claim_bytes=None if claim is None else int(claim * MIB),
        limit_bytes=None if limit is None else int(limit * MIB),
        use_bytes=int(use * MIB),
        workload=f"zipf 0.8 over {use:g} MiB, 2 threads",
        touches=touches,
        busy_seconds=busy,
        stall_seconds=stall,
        build_seconds=0.8,
        page_ins=page_ins,
        page_outs=page_ins,
        page_outs_by_others=int(page_ins * others),
        faults=page_ins,
        stalls=histogram(page_ins),
        s_usage_bytes=[int(top * min(1.0, t / 0.8) * (1 - 0.02 * math.sin(3 * t) ** 2)) for t in times],
        s_page_ins=[int(page_ins * f) for f in swing],
        s_page_outs=[int(page_ins * f) for f in swing],
        s_touches=[int(touches * f) for f in steady],
        s_stall_seconds=[stall * f for f in swing],
        s_max_events=[0] * samples,
        **more,
    )


def run(label: str, kind: Any, series: str, pods: list[PodRun], duration: float = 10.0, **more: Any) -> Run:
    samples = max((len(p.s_usage_bytes) for p in pods), default=0)
    used = [sum(p.s_usage_bytes[i] for p in pods if i < len(p.s_usage_bytes)) for i in range(samples)]
    return Run(
        label=label,
        kind=kind,
        series=series,
        duration=duration,
        seed=1,
        epc_bytes=EPC,
        cpus=8,
        cpu_hz=CPU_HZ,
        cost_profile="default",
        pods=pods,
        times=[duration * (i + 1) / samples for i in range(samples)],
        s_free_bytes=[max(0, EPC - u - MIB) for u in used],
        s_unattributed_bytes=[MIB] * samples,
        **more,
    )


def cost(item: str, cycles: int, low: int, high: int, per: str, source: str) -> dict[str, Any]:
    """A row as the simulator's `CostProfile.as_table` gives it."""
    nanoseconds = cycles / CPU_HZ * 1e9
    row = {"item": item, "per": per, "cycles": cycles, "nanoseconds": nanoseconds, "low": low, "high": high}
    return {**row, "source": source, "provenance": "memory"}


CONFIG: dict[str, Any] = {
    "command": "epcgroup run pods.yaml --epc 128Mi --use greedy=96Mi:zipf --seed 1",
    "files": ["pods.yaml"],
    "version": "0.1.0",
    "costs": {
        "profile": "default",
        "check": {"what": "reload fault with one eviction", "cycles": 41300, "range": [25000, 64000]},
        "source": "published figures, mostly Skylake clients",
        "items": [
            cost("eldu", 12000, 8000, 44000, "page loaded", "Eleos, EuroSys'17"),
            cost("ewb", 12000, 7500, 16000, "page written out", "Eleos, EuroSys'17"),
            cost("aex_eresume", 7000, 5000, 20000, "exception and ERESUME", "Middleware'20"),
        ],
    },
    "node": {"epc": "128Mi", "cpus": 8, "cpu_hz": 3.0e9},
}


def noisy_neighbour() -> RunSet:
    """`greedy` claims 16 MiB and uses 112; `web` claims and uses 64. EPC is 128 MiB."""
    alone = [
        run("alone:web", "alone", "mainline", [pod("web", claim=64, use=64)]),
        run("alone:greedy", "alone", "mainline", [pod("greedy", claim=16, use=112)]),
    ]
    unlimited = run(
        "none",
        "unlimited",
        "mainline",
        [
            pod("web", claim=64, use=64, held=42, page_ins=502_000, others=0.75, busy=1.0812, stall=6.9188),
            pod("greedy", claim=16, use=112, held=84, page_ins=210_000, others=0.25, busy=5.1, stall=2.9),
        ],
        events=[
            Event(0.9, "", "ksgxd woken: 31 of 32768 pages free"),
            Event(4.2, "web", "first page of web written out by greedy"),
        ],
    )
    limited = run(
        "claims",
        "limited",
        "v17",
        [
            pod("web", claim=64, use=64, limit=64),
            pod("greedy", claim=16, use=112, limit=16, held=16, page_ins=532_000, busy=0.6667, stall=7.3333),
        ],
        events=[Event(0.13, "greedy", "limit of 16 MiB hit")],
    )
    return RunSet("noisy neighbour", [*alone, unlimited, limited], CONFIG, ["greedy: use of 112 MiB set by --use"])


def side_by_side() -> RunSet:
    """The noisy neighbour simulated and live, where the live pods touch half as much in the same time, and `web` pages
    a little less without limits."""
    simulated = noisy_neighbour()
    live = []
    for one in noisy_neighbour().runs:
        for p in one.pods:
            p.touches //= 2
            p.page_ins //= 2
            p.page_outs //= 2
            if one.label == "none" and p.name == "web":
                p.page_ins = p.page_ins * 3 // 4
        live.append(replace(one, label=f"live {one.label}", live=True, cpus=2, cpu_hz=0.0, cost_profile=""))
    return replace(simulated, runs=[*simulated.runs, *live])


def crowd(pods: int = 10, samples: int = 200) -> RunSet:
    """Many pods that claim little and use more, alone and together."""
    names = [f"job-{i:02d}" if i % 3 else f"a-deployment-with-a-long-name-7d9c6-{i:05d}" for i in range(pods)]
    use = {name: 8 + 6 * (i % 5) for i, name in enumerate(names)}
    alone = [run(f"alone:{n}", "alone", "mainline", [pod(n, claim=10, use=use[n], samples=samples)]) for n in names]
    free = run(
        "none",
        "unlimited",
        "mainline",
        [
            pod(
                n,
                claim=10,
                use=use[n],
                held=127 * use[n] / sum(use.values()),
                page_ins=20_000 * (1 + i % 4),
                others=0.9,
                busy=8 / (1.5 + i % 4),
                stall=8 - 8 / (1.5 + i % 4),
                samples=samples,
            )
            for i, n in enumerate(names)
        ],
    )
    held = run(
        "claims",
        "limited",
        "v17",
        [
            pod(
                n,
                claim=10,
                use=use[n],
                limit=10,
                held=min(10, use[n]),
                page_ins=0 if use[n] <= 10 else 3_000 * use[n],
                busy=8 if use[n] <= 10 else 80 / use[n],
                stall=0 if use[n] <= 10 else 8 - 80 / use[n],
                samples=samples,
            )
            for n in names
        ],
        events=[Event(0.1 * i, n, "limit of 10 MiB hit") for i, n in enumerate(names)],
    )
    return RunSet("ten jobs", [*alone, free, held], CONFIG, [])
