"""Scenario files: TOML in, a Plan out. docs/reference/scenario.md has every key.

A file says everything a simulation depends on, so that it gives the same result everywhere; file names in it are
relative to it. A fault is one InputError line: file, key path (pods[2].use), what stood there, what is allowed.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from epcgroup import manifest
from epcgroup.errors import InputError, nearest
from epcgroup.interface import UNLIMITED
from epcgroup.sim import cost
from epcgroup.sim.plan import (
    COMPARABLE,
    COMPARE,
    DEFAULT_WORKLOAD,
    MAX_ENCLAVE_BYTES,
    MAX_EPC_BYTES,
    MAX_PODS,
    MIN_ENCLAVE_BYTES,
    ContainerPlan,
    LimitChange,
    NodePlan,
    Plan,
    PodPlan,
    SectionPlan,
    Use,
    cgroups_of,
    check_pods,
    heap_pages,
    limits_of,
    parse_use,
    pods_from_manifests,
    replicas_of,
)
from epcgroup.sim.workload import WorkloadSpec, from_table, parse_workload
from epcgroup.units import PAGE_SIZE, format_bytes, parse_bytes, parse_duration, quoted

KEYS = ("title", "description", "node", "run", "limits", "pods", "use", "events")
NODE_KEYS = ("epc", "sections", "cpus", "sgx2", "costs", "cost")
RUN_KEYS = ("duration", "seed", "series", "compare")
WORK_KEYS = ("use", "workload", "threads", "enclaves", "edmm", "vepc")  # what a container does
CONTAINER_KEYS = ("name", "claim", "limit", *WORK_KEYS)
PLACE_KEYS = ("numa", "start", "stop")
POD_KEYS = ("name", "namespace", "qos", "cgroup", "replicas", "claim", "limit", *WORK_KEYS, *PLACE_KEYS, "containers")
USE_KEYS = ("size", *WORK_KEYS[1:], *PLACE_KEYS)
EVENT_KEYS = ("at", "pod", "cgroup", "limit")

MAX_FILE_BYTES = 16 << 20
MAX_CPUS, MAX_THREADS, MAX_ENCLAVES, MAX_NODE = 4096, 1024, 1024, 63
MIN_SECONDS, MAX_SECONDS = 1e-3, 1e6
DEFAULT_EPC = "128Mi"

T = TypeVar("T")


class _Table:
    """A TOML table with its place, read key by key; a key that is not in `keys` is a fault."""

    def __init__(self, value: object, file: Path, key: str, keys: tuple[str, ...]) -> None:
        self.file, self.key = file, key
        if not isinstance(value, Mapping):
            raise InputError(f"{quoted(value)} is not a table", where=file, key=key)
        self.values = value
        for name in value:
            if name not in keys:
                raise InputError(f"no such key{nearest(name, keys)}", where=file, key=self.at(name))

    def at(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name

    def fault(self, name: str, message: str) -> InputError:
        return InputError(message, where=self.file, key=self.at(name))

    def get(self, name: str, read: "Callable[[_Table, str, Any], T]", default: T) -> T:
        return read(self, name, self.values[name]) if name in self.values else default

    def tables(self, name: str, keys: tuple[str, ...]) -> "list[_Table]":
        """The tables of a list, named NAME[1] and so on."""
        rows = self.values.get(name, [])
        if not isinstance(rows, list):
            raise self.fault(name, f"{quoted(rows)} is not a list of tables")
        return [_Table(row, self.file, f"{self.at(name)}[{i}]", keys) for i, row in enumerate(rows, 1)]


# ---- readers of one value


def _text(table: _Table, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise table.fault(name, f"{quoted(value)} is not a text")
    return value


def _name(table: _Table, name: str, value: Any) -> str:
    text = _text(table, name, value)
    if not text or not text.isprintable() or "/" in text or len(text) > 253:
        raise table.fault(name, f"{quoted(text)} is no name; 1 to 253 printable characters without / are allowed")
    return text


def _one_of(*allowed: str) -> Callable[[_Table, str, Any], str]:
    def read(table: _Table, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise table.fault(name, f"{quoted(value)} is not allowed{nearest(str(value), allowed)}")
        return value

    return read


def _switch(table: _Table, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise table.fault(name, f"{quoted(value)} is neither true nor false")
    return value


def _whole(least: int, most: int) -> Callable[[_Table, str, Any], int]:
    def read(table: _Table, name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise table.fault(name, f"{quoted(value)} is not a whole number")
        if not least <= value <= most:
            raise table.fault(name, f"{quoted(value)} is out of range; {least} to {most} is allowed")
        return value

    return read


def _size(least: int, most: int) -> Callable[[_Table, str, Any], int]:
    def read(table: _Table, name: str, value: Any) -> int:
        size = parse_bytes(value, where=table.file, key=table.at(name))
        if not least <= size <= most:
            raise table.fault(name, f"{quoted(value)} is not between {_short(least)} and {_short(most)}")
        return size

    return read


def _short(size: int) -> str:
    return f"{format_bytes(size)} (a page)" if size == PAGE_SIZE else format_bytes(size)


def _limit(table: _Table, name: str, value: Any) -> int | None:
    """Bytes, or None for max."""
    if value == "max":
        return None
    size = parse_bytes(value, where=table.file, key=table.at(name))
    if size < PAGE_SIZE:
        raise table.fault(name, f'{quoted(value)} lets no page in; at least 4096 bytes (a page), or "max"')
    return size


def _own_limit(table: _Table, name: str, value: Any) -> int:
    """As _limit, with a number for max: no limit at all is its claim."""
    limit = _limit(table, name, value)
    return UNLIMITED if limit is None else limit


def _written_limit(table: _Table, name: str, value: Any) -> int | None:
    """As _limit; 0 too, which an administrator writes to empty a cgroup."""
    return 0 if value == 0 or value == "0" else _limit(table, name, value)


def _time(least: float) -> Callable[[_Table, str, Any], float]:
    def read(table: _Table, name: str, value: Any) -> float:
        seconds = parse_duration(value, where=table.file, key=table.at(name))
        if not least <= seconds <= MAX_SECONDS:
            raise table.fault(name, f"{quoted(value)} is not between {least:g} s and {MAX_SECONDS:g} s")
        return seconds

    return read


def _cgroup(table: _Table, name: str, value: Any) -> str:
    path = _text(table, name, value)
    if not path.startswith("/") or path.endswith("/") or "//" in path or not path.isprintable():
        raise table.fault(name, f'{quoted(path)} is no cgroup path, as in "/tenant/web"')
    return path


def _workload(table: _Table, name: str, value: Any) -> WorkloadSpec:
    file, key = table.file, table.at(name)
    if isinstance(value, str):
        return parse_workload(value, where=file, key=key, base=file.parent)
    if isinstance(value, Mapping):
        return from_table(value, where=file, key=key, base=file.parent)
    raise table.fault(name, f"{quoted(value)} is no workload; a text or a table is wanted")


def _compare(table: _Table, name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise table.fault(name, f"{quoted(value)} is not a list of runs; allowed in it: {', '.join(COMPARABLE)}")
    return tuple(dict.fromkeys(_one_of(*COMPARABLE)(table, name, item) for item in value))


_EPC = _size(PAGE_SIZE, MAX_EPC_BYTES)
_USE = _size(MIN_ENCLAVE_BYTES, MAX_EPC_BYTES)
_CLAIM = _size(0, 2**62)
_THREADS = _whole(1, MAX_THREADS)
_COUNT = _whole(1, MAX_ENCLAVES)
_NUMA = _whole(0, MAX_NODE)


# ---- the file


def read(path: Path) -> Plan:
    """The plan a scenario file describes. Without run.duration the plan's is 0: the caller's choice."""
    top = _Table(_load(path), path, "", KEYS)
    run = _Table(top.values.get("run", {}), path, "run", RUN_KEYS)
    description = " ".join(top.get("description", _text, "").split())
    pods, notes = _pods(top)
    check_pods(pods, where=path)
    if not any(pod.containers for pod in pods):
        raise InputError(
            "; ".join(notes) or "no pod; wanted is [[pods]] with manifest, or with name and use", where=path
        )
    plan = Plan(
        title=top.get("title", _text, path.stem),
        node=_node(top),
        pods=tuple(pods),
        duration=run.get("duration", _time(MIN_SECONDS), 0.0),
        seed=run.get("seed", _whole(0, 2**63 - 1), 1),
        series=run.get("series", _one_of("v2", "v17"), "v17"),  # type: ignore[arg-type]
        limits=_limits(top.values.get("limits", {}), path, "limits"),
        compare=run.get("compare", _compare, COMPARE),
        notes=tuple([description] * bool(description) + notes),
    )
    limits_of(plan, f"{path}, limits")
    return replace(plan, changes=_changes(top, plan))


def read_limits(path: Path) -> dict[str, int | None]:
    """Limits (bytes, None for max) by pod, pod/container or cgroup: a [limits] table, or the file's own keys."""
    data = _load(path)
    if "limits" not in data:
        return _limits(data, path, "")
    _Table(data, path, "", ("limits",))
    return _limits(data["limits"], path, "limits")


def _load(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({getattr(error, 'strerror', None) or error})", where=path) from None
    if len(raw) > MAX_FILE_BYTES:
        raise InputError(f"{len(raw)} bytes; at most {MAX_FILE_BYTES} are read", where=path)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 (byte {error.start + 1})", where=path) from None
    if not text.strip():
        raise InputError("an empty file; a scenario needs at least one [[pods]]", where=path)
    try:
        return tomllib.loads(text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not TOML ({str(error)[:200]})", where=path) from None


def _limits(value: object, path: Path, key: str) -> dict[str, int | None]:
    if not isinstance(value, Mapping):
        raise InputError(f"{quoted(value)} is not a table", where=path, key=key)
    table = _Table(value, path, key, tuple(value))
    return {name: _limit(table, name, limit) for name, limit in value.items()}


# ---- the node


def _node(top: _Table) -> NodePlan:
    node = _Table(top.values.get("node", {}), top.file, "node", NODE_KEYS)
    if "epc" in node.values and "sections" in node.values:
        raise node.fault("sections", "epc is given too; one of the two")
    rows = [
        SectionPlan(row.get("node", _NUMA, 0), row.get("size", _EPC, 0))
        for row in node.tables("sections", ("node", "size"))
    ]
    for i, section in enumerate(rows, 1):
        if not section.size_bytes:
            raise node.fault(f"sections[{i}].size", 'missing; a size, as in "64Mi"')
    costs = cost.profile(node.get("costs", _text, "default"), where=node.file, key=node.at("costs"))
    changes = _Table(node.values.get("cost", {}), node.file, node.at("cost"), (*costs.items, "cpu_hz"))
    if changes.values:
        costs = cost.override(costs, changes.values, where=node.file, key=changes.key)
    try:
        return NodePlan(
            sections=tuple(rows) or (SectionPlan(0, node.get("epc", _EPC, parse_bytes(DEFAULT_EPC))),),
            cpus=node.get("cpus", _whole(1, MAX_CPUS), 8),
            costs=costs,
            sgx2=node.get("sgx2", _switch, True),
        )
    except InputError as error:
        if str(error).startswith(str(node.file)):
            raise
        raise node.fault("sections", str(error)) from None


# ---- pods


def _pods(top: _Table) -> tuple[list[PodPlan], list[str]]:
    plans: list[PodPlan] = []
    notes: list[str] = []
    templates: list[str] = []  # of pods from manifests
    rows = top.tables("pods", ("manifest", *POD_KEYS))
    for row in rows:
        if "manifest" not in row.values:
            plans += _inline(row)
            continue
        extra = next((name for name in row.values if name not in ("manifest", "use")), None)
        if extra is not None:
            raise row.fault(extra, "does not go with manifest; allowed beside it: use")
        made, said = _from_manifest(row, _text(row, "manifest", row.values["manifest"]), top.values.get("use", {}))
        plans += made
        templates += [plan.template for plan in made]
        notes += said
    uses = _uses(_Table(top.values.get("use", {}), top.file, "use", tuple(_mapping(top, "use"))))
    for name in uses:
        if name not in templates:
            raise top.fault(f"use.{name}", f"no pod {quoted(name)} in a manifest{nearest(name, templates)}")
    return plans, notes


def _mapping(table: _Table, name: str) -> Mapping[str, Any]:
    value = table.values.get(name, {})
    if not isinstance(value, Mapping):
        raise table.fault(name, f"{quoted(value)} is not a table of POD = what it uses")
    return value


def _from_manifest(row: _Table, name: str, shared: object) -> tuple[list[PodPlan], list[str]]:
    """The pods of a manifest; its own use table goes before the scenario's."""
    file = row.file.parent / name
    if not name or "\0" in name or not file.exists():
        raise row.fault("manifest", f"no such file {quoted(name)} beside the scenario")
    pods, skipped = manifest.read([file])
    if not pods:
        reasons = "; ".join(skip.reason for skip in skipped)
        raise row.fault("manifest", f"{quoted(name)} has no pod that asks for SGX EPC ({reasons or 'empty'})")
    names = {pod.name for pod in pods}
    own = _uses(_Table(row.values.get("use", {}), row.file, row.at("use"), tuple(_mapping(row, "use"))))
    others = shared if isinstance(shared, Mapping) else {}
    here = {key: value for key, value in others.items() if key in names and key not in own}
    uses = _uses(_Table(here, row.file, "use", tuple(here))) | own
    plans, notes = pods_from_manifests(pods, uses, where=f"{row.file}, {row.at('use')}")
    return plans, [f"{skip.origin} skipped: {skip.reason}" for skip in skipped] + notes


def _uses(table: _Table) -> dict[str, Use]:
    """What pods from manifests do: `96Mi:zipf`, or a table."""
    uses = {}
    for name, value in table.values.items():
        if isinstance(value, str):
            use = parse_use(value, where=table.file, key=table.at(name), base=table.file.parent)
            _USE(table, name, use.size_bytes)
            uses[name] = use
            continue
        row = _Table(value, table.file, table.at(name), USE_KEYS)
        uses[name] = Use(
            size_bytes=row.get("size", _USE, None),
            workload=row.get("workload", _workload, None),
            threads=row.get("threads", _THREADS, 1),
            enclaves=row.get("enclaves", _COUNT, 1),
            edmm=row.get("edmm", _switch, False),
            vepc=row.get("vepc", _switch, False),
            numa=row.get("numa", _NUMA, None),
            start=row.get("start", _time(0), 0.0),
            stop=row.get("stop", _time(0), None),
        )
        _check_times(row, uses[name].start, uses[name].stop)
    return uses


def _inline(row: _Table) -> list[PodPlan]:
    if "name" not in row.values:
        raise row.fault("name", "missing; a pod has a name, or comes from a manifest")
    name = row.get("name", _name, "")
    containers = row.tables("containers", CONTAINER_KEYS)
    if containers:
        misplaced = next((key for key in ("claim", *WORK_KEYS) if key in row.values), None)
        if misplaced is not None:
            raise row.fault(misplaced, "goes into the containers, as there are some")
    plans = [_container(table, table.get("name", _name, f"c{i}")) for i, table in enumerate(containers, 1)]
    twice = next((c.name for i, c in enumerate(plans) if c.name in [d.name for d in plans[:i]]), None)
    if twice is not None:
        raise row.fault("containers", f"two of them have the name {quoted(twice)}; each needs its own")
    if not containers:
        plans = [_container(row, "main")]
    claims = [c.claim_bytes for c in plans if c.claim_bytes is not None]
    pod = PodPlan(
        name=name,
        containers=tuple(plans),
        namespace=row.get("namespace", _name, "default"),
        qos=row.get("qos", _one_of("guaranteed", "burstable", "besteffort"), "besteffort"),  # type: ignore[arg-type]
        claim_bytes=sum(claims) if claims else None,
        limit_bytes=row.get("limit", _own_limit, None),
        numa=row.get("numa", _NUMA, None),
        start=row.get("start", _time(0), 0.0),
        stop=row.get("stop", _time(0), None),
        cgroup=row.get("cgroup", _cgroup, ""),
    )
    _check_times(row, pod.start, pod.stop)
    replicas = row.get("replicas", _whole(1, MAX_PODS), 1)
    if pod.cgroup and replicas > 1:
        raise row.fault("cgroup", f"{replicas} replicas cannot share a cgroup")
    return replicas_of(pod, replicas)


def _check_times(row: _Table, start: float, stop: float | None) -> None:
    if stop is not None and stop <= start:
        raise row.fault("stop", f"{stop:g} s is not after its start at {start:g} s")


def _container(table: _Table, name: str) -> ContainerPlan:
    claim = table.get("claim", _CLAIM, None)
    if claim is None and "use" not in table.values:
        raise table.fault("use", 'missing; what it uses or claims, as in "96Mi"')
    use = table.get("use", _USE, None)
    if use is None:
        use = _USE(table, "claim", claim)
    container = ContainerPlan(
        name=name,
        use_bytes=use,
        claim_bytes=claim,
        limit_bytes=table.get("limit", _own_limit, None),
        workload=table.get("workload", _workload, parse_workload(DEFAULT_WORKLOAD)),
        threads=table.get("threads", _THREADS, 1),
        enclaves=table.get("enclaves", _COUNT, 1),
        edmm=table.get("edmm", _switch, False),
        vepc=table.get("vepc", _switch, False),
    )
    each = use // container.enclaves
    if not MIN_ENCLAVE_BYTES <= each <= MAX_ENCLAVE_BYTES:
        least, most = format_bytes(MIN_ENCLAVE_BYTES), format_bytes(MAX_ENCLAVE_BYTES)
        raise table.fault("use", f"{format_bytes(each)} an enclave; {least} to {most} are allowed")
    if container.vepc:
        wrong = next((key for key in ("workload", "threads", "edmm") if key in table.values), None)
        if wrong is not None:
            raise table.fault(wrong, "does not go with vepc: what a guest does inside is not modelled")
    elif container.workload.min_pages() > heap_pages(each):
        wanted = format_bytes(container.workload.min_pages() * PAGE_SIZE)
        raise table.fault("use", f"its workload touches {wanted}, too much for an enclave of {format_bytes(each)}")
    return container


# ---- what happens while it runs


def _changes(top: _Table, plan: Plan) -> tuple[LimitChange, ...]:
    changes: list[LimitChange] = []
    for row in top.tables("events", EVENT_KEYS):
        for wanted in ("at", "limit"):
            if wanted not in row.values:
                raise row.fault(wanted, f"missing; an event has {', '.join(EVENT_KEYS)} (one of pod and cgroup)")
        if ("pod" in row.values) == ("cgroup" in row.values):
            raise row.fault("pod", "an event names either a pod or a cgroup")
        at = row.get("at", _time(0), 0.0)
        if plan.duration and at >= plan.duration:
            raise row.fault("at", f"{at:g} s is not within the run of {plan.duration:g} s")
        limit = row.get("limit", _written_limit, None)
        text = "max" if limit is None else format_bytes(limit)
        if "cgroup" in row.values:
            path = row.get("cgroup", _cgroup, "")
            _known(row, "cgroup", path, cgroups_of(plan.pods))
            changes.append(LimitChange(at, path, limit, f"misc.max of {path} set to {text}"))
            continue
        name = row.get("pod", _text, "")
        _known(row, "pod", name, [pod.name for pod in plan.pods] + [pod.template for pod in plan.pods])
        for pod in plan.pods:
            if name in (pod.name, pod.template):
                # The pod's limit is to be the one that binds: those of its containers go.
                own = limits_of(plan)
                paths = [path for path in map(pod.container_path, pod.containers) if path in own]
                changes += [LimitChange(at, path, None, "") for path in paths]
                changes.append(LimitChange(at, pod.path, limit, f"misc.max of {pod.name} set to {text}"))
    return tuple(changes)


def _known(row: _Table, key: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise row.fault(key, f"no such {key} {quoted(name)}{nearest(name, dict.fromkeys(known))}")
