"""Where `top` looks: a cgroup2 tree, the live daemon's status, a recorded run. Each look is one Look; sizes are bytes.

A source that cannot be looked at at all raises InputError; what one group has wrong is a line in `problems`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from epcgroup.agent.discover import PodGroup, pod_groups
from epcgroup.agent.source import Source as PodSource
from epcgroup.agent.tree import Tree, printable
from epcgroup.errors import InputError
from epcgroup.interface import UNLIMITED
from epcgroup.manifest import cgroup_path
from epcgroup.manifest.pod import Instance
from epcgroup.trace import Run
from epcgroup.units import format_bytes

MAX_DEPTH = 8  # of groups that are no pods


@dataclass(frozen=True)
class Group:
    """One cgroup in one look. None: it does not say."""

    key: str  # the same from look to look: its path
    kind: Literal["pod", "container", "group"]
    name: str
    pod: str = ""  # key of its pod, of a container
    use: int | None = None
    limit: int | None = None  # UNLIMITED: there is none
    claim: int | None = None
    peak: int | None = None
    events: int | None = None  # charges refused at its limit, or at one below it
    paged: int | None = None  # pages loaded and written out so far


@dataclass(frozen=True)
class Look:
    at: float  # seconds, of a clock that only goes forward
    title: str
    capacity: int | None
    use: int | None
    groups: tuple[Group, ...]
    problems: tuple[str, ...] = ()


class Source(Protocol):
    def look(self) -> Look | None:
        """None: nothing new comes any more."""


# --- a cgroup2 tree


class TreeSource:
    """A real node, a tree of ours, or a folder like one. `pods` tells names and claims; None: cgroups have only ids."""

    def __init__(self, tree: Tree, pods: PodSource | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._tree, self._pods, self._clock = tree, pods, clock
        self._problems: list[str] = []

    def look(self) -> Look:
        self._problems = []
        capacity = self._read(self._tree.value, "/", "misc.capacity")
        groups = tuple(self._groups())
        if capacity is None and all(group.use is None for group in groups):
            file = self._tree.shown("/", "misc.capacity")
            raise InputError(
                f"{file} has no {self._tree.resource}; --tree names another tree, --directory the live daemon"
            )
        return Look(
            self._clock(),
            f"cgroup2 {self._tree.shown('/')}",
            capacity,
            self._read(self._tree.value, "/", "misc.current"),
            groups,
            tuple(self._problems),
        )

    def _groups(self) -> Iterator[Group]:
        found = pod_groups(self._tree, self._problems.append)
        known: dict[str, Instance] = {}
        if self._pods is not None:
            seen = self._pods.look()
            known = {instance.uid: instance for instance in seen.pods}
            self._problems += seen.problems
        for uid, pod in found.items():
            yield from self._pod(uid, pod, known.get(uid))
        pods = [pod.path for pod in found.values() if pod.path]
        for path in self._others("/", frozenset(pods), 0):
            if not any(below.startswith(f"{path}/") for below in pods):
                group = self._group(path, "group", printable(path))
                if group.use or group.limit not in (None, UNLIMITED):
                    yield group

    def _pod(self, uid: str, found: PodGroup, instance: Instance | None) -> Iterator[Group]:
        pod = instance.pod if instance else None
        key = found.path or f"pod{uid}"
        name = f"{pod.namespace}/{pod.name}" if pod else f"pod {uid}"
        claim = pod.claim_bytes if pod else None
        yield self._group(found.path, "pod", name, key=key, claim=claim)
        claims = {c.name: c.claim_bytes for c in pod.containers} if pod else {}
        for identity, path in found.containers.items():
            named = instance.container_ids.get(identity) if instance else None
            group = self._group(path, "container", named or identity[:12], pod=key, claim=claims.get(named or ""))
            # The sandbox of a pod runs no enclave.
            if named or group.use or group.limit not in (None, UNLIMITED):
                yield group

    def _others(self, path: str, pods: frozenset[str], depth: int) -> Iterator[str]:
        try:
            entries = self._tree.entries(path) if depth < MAX_DEPTH else []
        except InputError:
            return  # said by the search for pods
        for entry in entries:
            below = f"{path.rstrip('/')}/{entry.name}"
            if below not in pods and cgroup_path.parse(below) is None and Tree.is_group(entry):
                yield below
                yield from self._others(below, pods, depth + 1)

    def _group(
        self,
        path: str | None,
        kind: Literal["pod", "container", "group"],
        name: str,
        *,
        key: str = "",
        pod: str = "",
        claim: int | None = None,
    ) -> Group:
        if path is None:
            return Group(key, kind, name, pod, claim=claim)
        value, events = self._tree.value, self._tree.events
        return Group(
            key or path,
            kind,
            name,
            pod,
            use=self._read(value, path, "misc.current"),
            limit=self._read(value, path, "misc.max"),
            claim=claim,
            peak=self._read(value, path, "misc.peak"),
            events=self._read(events, path, "misc.events"),
        )

    def _read(self, read: Callable[[str, str], int | None], path: str, name: str) -> int | None:
        try:
            return read(path, name)
        except InputError as error:
            self._problems.append(str(error))
            return None


# --- the live daemon


class StatusSource:
    """`ask` returns what `epcgroup status --json` shows."""

    def __init__(self, ask: Callable[[], Mapping[str, Any]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock

    def look(self) -> Look:
        status = self._ask()
        groups = [
            Group(
                path,
                "group",
                printable(path),
                use=group["current"],
                limit=UNLIMITED if group["max"] is None else group["max"],
                peak=group["peak"],
                events=group["refused"],
                paged=group["loads"] + group["write_outs"],
            )
            for path, group in status["groups"].items()
            if path != "/"
        ]
        title = f"live daemon {status['pid']}, series {status['series']}"
        return Look(self._clock(), title, status["epc"], status["epc"] - status["free"], tuple(groups))


# --- a recorded run


class RunSource:
    """A run, sample by sample, up to `until` seconds of its own clock."""

    def __init__(self, run: Run, until: float | None = None) -> None:
        self._looks = iter(list(_looks(run, until)))

    def look(self) -> Look | None:
        return next(self._looks, None)


def _looks(run: Run, until: float | None) -> Iterator[Look]:
    for number, at in enumerate(run.times):
        if until is not None and at > until and number:
            return
        groups = []
        for pod in run.pods:
            if number >= len(pod.s_usage_bytes):
                continue
            groups.append(
                Group(
                    pod.name,
                    "pod",
                    printable(pod.name),
                    use=pod.s_usage_bytes[number],
                    limit=UNLIMITED if pod.limit_bytes is None else pod.limit_bytes,
                    claim=pod.claim_bytes,
                    peak=max(pod.s_usage_bytes[: number + 1]),
                    events=_sample(pod.s_max_events, number),
                    paged=(_sample(pod.s_page_ins, number) or 0) + (_sample(pod.s_page_outs, number) or 0),
                )
            )
        free = _sample(run.s_free_bytes, number)
        title = f"run {run.label}, {at:.2f} s of {run.times[-1]:.2f} s, EPC {format_bytes(run.epc_bytes)}"
        used = None if free is None else run.epc_bytes - free
        yield Look(at, title, run.epc_bytes, used, tuple(groups))


def _sample(samples: list[int], number: int) -> int | None:
    return samples[number] if number < len(samples) else None
