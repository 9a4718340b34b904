"""What a run leaves behind: the record that the simulator and a live run write and every report reads.

Data flows one way: a run makes a `Run`, `report` turns runs into numbers, text and a page. Times are seconds of the
run's own clock, sizes bytes, counts events. Nothing here computes a metric; the formulas stand in report/metrics.py.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from epcgroup.errors import InputError

FORMAT = "epcgroup-run-1"

# Stall histogram: bucket i counts stalls of [2**(i/4), 2**((i+1)/4)) nanoseconds; 160 buckets reach 18 minutes.
STALL_BUCKETS = 160
STALL_BUCKETS_PER_OCTAVE = 4


Kind = Literal["alone", "unlimited", "limited"]
LIVE = "live "  # what the label of a live run begins with; then comes that of the same run, simulated


@dataclass
class PodRun:
    """One pod in one run. The `s_*` lists are samples at `Run.times` (cumulative counters, gauges as they stood)."""

    name: str
    cgroup: str
    claim_bytes: int | None  # what the manifest claims
    limit_bytes: int | None  # misc.max in this run; None: no limit
    use_bytes: int  # enclave bytes the workload touches
    workload: str  # one line: what it does ("zipf 1.0 over 96 MiB, 4 threads")
    touches: int = 0  # page touches completed
    busy_seconds: float = 0.0  # thread time spent computing between touches
    stall_seconds: float = 0.0  # thread time lost to EPC: faults, direct reclaim, refused charges repeated
    build_seconds: float = 0.0  # thread time building enclaves (ADD_PAGES, EEXTEND, EINIT)
    wait_seconds: float = 0.0  # thread time runnable but without a CPU
    page_ins: int = 0  # ELDU of regular pages
    page_outs: int = 0  # EWB of this pod's pages, whoever did it
    page_outs_by_others: int = 0  # the part of page_outs that other pods' allocations or ksgxd did
    faults: int = 0  # page faults taken, refused ones included
    grown: int = 0  # EAUG: dynamic pages added
    max_events: int = 0  # misc.events: charges refused at a limit: the pod's, one below it, or one above it
    stalls: list[int] = field(default_factory=list)  # histogram, STALL_BUCKETS buckets
    outcome: str = "ran"  # "ran", or one sentence ("creation refused: ENOMEM", "SIGBUS after 3.2 s", ...)
    ended_at: float | None = None  # seconds; None: ran to the end
    s_usage_bytes: list[int] = field(default_factory=list)
    s_page_ins: list[int] = field(default_factory=list)
    s_page_outs: list[int] = field(default_factory=list)
    s_touches: list[int] = field(default_factory=list)
    s_stall_seconds: list[float] = field(default_factory=list)
    s_max_events: list[int] = field(default_factory=list)

    def sample(self, usage_bytes: int) -> None:
        """Append a sample to every list: the counters as they are now."""
        self.s_usage_bytes.append(usage_bytes)
        self.s_page_ins.append(self.page_ins)
        self.s_page_outs.append(self.page_outs)
        self.s_touches.append(self.touches)
        self.s_stall_seconds.append(self.stall_seconds)
        self.s_max_events.append(self.max_events)


@dataclass
class Event:
    """One thing worth a line: limit hit, refusal, OOM kill, ksgxd woken, pod ended. Rate-limited by the writer."""

    time: float
    pod: str  # pod name, or "" for the node
    what: str


@dataclass
class Run:
    """One run of all (or one) of the pods on one node."""

    label: str  # "none", "claims", "alone:web", "v2 claims", "live none" ...
    kind: Kind
    series: str  # mainline, v2, v17
    duration: float  # seconds that were run, of the run's own clock
    seed: int
    epc_bytes: int
    cpus: int
    cpu_hz: float
    cost_profile: str
    pods: list[PodRun] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # sample times, ascending
    s_free_bytes: list[int] = field(default_factory=list)
    s_unattributed_bytes: list[int] = field(default_factory=list)  # EPC in use by no pod
    events: list[Event] = field(default_factory=list)
    ksgxd_seconds: float = 0.0  # CPU time of the background reclaimer
    kworker_seconds: float = 0.0  # CPU time of the queued cgroup works
    wall_seconds: float = 0.0  # what it cost us; not part of any result
    ended_early: str | None = None  # e.g. "interrupted at 3.1 s of 10 s"
    live: bool = False  # real processes, on the clock of the host; else simulated


@dataclass
class RunSet:
    """Everything one command ran: what `epcgroup run --save` writes and `epcgroup report` reads."""

    title: str
    runs: list[Run]
    config: dict[str, Any]  # exact configuration: command, files, scenario, costs with source, versions
    notes: list[str] = field(default_factory=list)  # skipped inputs, assumptions, approximations: one line each

    def save(self, path: Path) -> None:
        """Write as JSON (the same run set gives the same bytes)."""
        data = {"format": FORMAT, **asdict(self)}
        path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "RunSet":
        """Read what `save` wrote; InputError when it is not one."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError("no such file", where=path) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"not a saved run ({error})", where=path) from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(f"not a saved run (format {FORMAT!r} expected)", where=path)
        try:
            runs = []
            for r in data["runs"]:
                pods = [PodRun(**p) for p in r.pop("pods")]
                events = [Event(**e) for e in r.pop("events")]
                runs.append(Run(**r, pods=pods, events=events))
            return cls(title=data["title"], runs=runs, config=data["config"], notes=data["notes"])
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"a damaged saved run ({error})", where=path) from None
