"""Brings the limits of a node to what they should be: one `turn` looks at everything, decides, and writes.

Writes only misc.max, and `+misc` to cgroup.subtree_control where `enable_misc` says so; nothing in modes observe and
warn, in a dry run, or where the controller or the resource is missing. Every write is a line; what stays as it is is
said once, and again when it has changed. Nothing is remembered that a turn does not find anew.
"""

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from epcgroup.agent.discover import PodGroup, pod_groups
from epcgroup.agent.policy import Decision, Limit, Rules, Wanted, decide, limited_groups, said_limit, shown, wanted
from epcgroup.agent.source import Known, Source
from epcgroup.agent.tree import MISC, Tree, printable
from epcgroup.errors import InputError
from epcgroup.manifest import cgroup_path

# Upper ends of the histogram of how long turns take, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

PATIENCE = 1.0  # seconds that a starting container waits for the source of pods; runtimes wait for 2


@dataclass(frozen=True)
class Outcome:
    """A decision and what became of it."""

    decision: Decision
    result: str = ""  # written, would be written, failed, gone; empty: nothing was to be written

    @property
    def drift(self) -> bool:
        """Whether the kernel's limit is another than it should be."""
        return self.decision.act != "right" and self.result not in ("written", "gone")


@dataclass(frozen=True)
class Snapshot:
    """What one turn found and did."""

    pods: tuple[Wanted, ...] = ()  # that the node should run
    groups: Mapping[str, PodGroup] = field(default_factory=dict)  # by UID
    outcomes: tuple[Outcome, ...] = ()
    capacity_bytes: int | None = None
    at: float = 0.0  # seconds since 1970

    def claims_and_use(self, used: Mapping[str, int]) -> list[tuple[int, int]]:
        """(claim, use) of every pod that claims or uses EPC, for the account; `used` is bytes by UID."""
        claims = {pod.instance.uid: pod.claim_bytes or 0 for pod in self.pods}
        return [(claims.get(uid, 0), used.get(uid, 0)) for uid in {**claims, **used}]


@dataclass
class Totals:
    """What all turns of this process did: counters that begin at zero with it."""

    writes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (pod, container or subtree; result)
    turns: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))  # by BUCKETS, not cumulated
    seconds: float = 0.0

    def count_turn(self, seconds: float) -> None:
        self.turns[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Once:
    """Says a line when it was not said in the turn before."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._before: set[str] = set()
        self._now: set[str] = set()

    def __call__(self, line: str) -> None:
        if line not in self._before and line not in self._now:
            self._say(line)
        self._now.add(line)

    def next_turn(self) -> None:
        self._before, self._now = self._now, set()


class Reconciler:
    def __init__(
        self,
        tree: Tree,
        source: Source,
        rules: Rules,
        say: Callable[[str], None],
        *,
        node: str | None = None,
        enable_misc: bool = False,
        dry_run: bool = False,
    ) -> None:
        """`say` takes the lines of the log. `node`: pods that are bound to another one are not looked at."""
        self.tree, self.rules = tree, rules
        self.totals = Totals()
        self.snapshot = Snapshot()
        self._source, self._node = source, node
        self._enable_misc, self.dry_run = enable_misc, dry_run
        self._say, self._once = say, Once(say)
        self._known = Known()
        self._wanted: tuple[Wanted, ...] = ()
        self._by_uid: dict[str, Wanted] = {}
        self._looking = threading.Lock()  # held while the source is asked
        self._asking: threading.Thread | None = None  # for look_again
        self._capable = False  # whether the node has the resource

    def turn(self) -> Snapshot:
        """Look, decide, write. Faults of pods, files and writes are lines; the turn goes on with the others."""
        started = time.perf_counter()
        pods = self._pods_now()
        groups = pod_groups(self.tree, self._once)
        capacity = self.value("/", "misc.capacity")
        seen = self._limits(pods, groups) if capacity else {}
        decisions = decide(pods, groups, seen, self.rules, capacity, self.tree.resource)
        self._capable = bool(capacity)
        if decisions and not capacity:
            file = self.tree.shown("/", "misc.capacity")
            self._once(f"{file} has no {self.tree.resource}: this node cannot limit it, and nothing is written")
        outcomes = tuple(map(self._carry_out, decisions))
        self.snapshot = Snapshot(pods, groups, outcomes, capacity, time.time())
        self._once.next_turn()
        self.totals.count_turn(time.perf_counter() - started)
        return self.snapshot

    def _pods_now(self) -> tuple[Wanted, ...]:
        with self._looking:
            return self._pods()

    def _pods(self) -> tuple[Wanted, ...]:
        """Limits of the pods that the node should run; worked out anew when the source knows something new."""
        known = self._known
        try:
            known = self._source.look()
        except InputError as error:
            self._once(f"{error}; going on with the {len(known.pods)} pods known before")
        if known is not self._known:
            self._known = known
            self._wanted = tuple(
                wanted(pod, self.rules)
                for pod in known.pods
                if not pod.over and (self._node is None or pod.node in (None, self._node))
            )
            self._by_uid = {pod.instance.uid: pod for pod in self._wanted}
        for line in known.problems:
            self._once(line)
        for pod in self._wanted:
            for line in pod.faults:
                self._once(line)
        return self._wanted

    def look_again(self, uids: Iterable[str]) -> None:
        """Ask the source when it did not know one of these pods, and wait PATIENCE for it; from any thread."""
        if self._by_uid.keys() >= set(uids):
            return
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._pods_now, name="source", daemon=True)
            self._asking.start()
        self._asking.join(PATIENCE)

    def limit_of(self, uid: str, container: str, annotations: Mapping[str, str]) -> Limit | None:
        """The limit that a container should have; from any thread.

        Of a pod that the source does not know yet only the annotations count, as the container runtime has them.
        """
        pod = self._by_uid.get(uid)
        if pod is not None:
            return pod.containers.get(container)
        return said_limit(container, annotations, self.rules, lambda line: self._once(printable(line)))

    def obstacle(self, cgroup_parent: str) -> str:
        """Why a container below cgroup_parent, as the runtime names it, cannot start with a limit; empty: it can."""
        try:
            controllers = self.tree.words("/", "cgroup.controllers") or []
        except InputError as error:
            return str(error)
        if MISC not in controllers:
            return "this node has no misc controller"
        if not self.value("/", "misc.capacity"):
            return f"this node has no {self.tree.resource}"
        # A runtime that enables misc (runc, crun from 1.18) has done so for the pod's sandbox, so a group without it
        # shows one that does not (crun before, youki): told to write misc.max it would fail the container. Of a group
        # that is not there nothing is known: the runtime makes it, and enables what it needs, or calls it otherwise.
        # No limit then would take the start from runtimes that work; kubelet's pods have their group by now.
        parent = cgroup_path.parent_path(cgroup_parent)
        try:
            delegated = None if parent is None else self.tree.words(parent, "cgroup.subtree_control")
        except InputError as error:
            return str(error)
        if parent is None or delegated is None or MISC in delegated:
            return ""
        return f"no misc in {self.tree.shown(parent, 'cgroup.subtree_control')}"

    def _limits(self, pods: tuple[Wanted, ...], groups: Mapping[str, PodGroup]) -> dict[str, int | None]:
        """misc.max of every group that should have a limit, misc being enabled where that is wanted and missing."""
        enabled: dict[str, bool] = {}
        seen = {}
        for pod in pods:
            enable = self._enable_misc and self.rules.mode_of(pod.instance.pod.namespace) == "enforce"
            for path, _, _ in limited_groups(pod, groups):
                now = self.value(path, "misc.max")
                if now is None and not self.tree.has(path):
                    continue
                if now is None and enable:
                    self._enable(path.rpartition("/")[0] or "/", enabled)
                    now = self.value(path, "misc.max")
                seen[path] = now
        return seen

    def value(self, path: str, name: str) -> int | None:
        """As Tree.value; a file that says nothing sensible is a line, and None."""
        try:
            return self.tree.value(path, name)
        except InputError as error:
            self._once(str(error))
            return None

    def _enable(self, path: str, enabled: dict[str, bool]) -> None:
        """`+misc` in the group and all above it, so that the groups below have misc files; from the root down."""
        parts = [part for part in path.split("/") if part]
        for above in ("/", *("/" + "/".join(parts[: depth + 1]) for depth in range(len(parts)))):
            if above not in enabled:
                enabled[above] = self._enable_in(above)
            if not enabled[above]:
                return

    def _enable_in(self, path: str) -> bool:
        """Whether the groups below have misc files now, or would have in a dry run."""
        try:
            available = self.tree.words(path, "cgroup.controllers") or []
            delegated = self.tree.words(path, "cgroup.subtree_control")
        except InputError as error:
            self._once(str(error))
            return False
        if delegated is None or MISC in delegated:
            return delegated is not None  # None: it has gone
        file = self.tree.shown(path, "cgroup.subtree_control")
        if self.dry_run:
            self._once(f"would write +misc to {file}: limits are wanted below it")
            return True
        if MISC not in available:
            self._once(f"{self.tree.shown(path, 'cgroup.controllers')} has no misc: it cannot be enabled below")
            return False
        result = self._write("subtree", path, "cgroup.subtree_control", "+misc", "limits are wanted below it")
        return result == "written"

    def _carry_out(self, decision: Decision) -> Outcome:
        if decision.act == "warn" or (decision.act == "cannot" and self._capable):
            self._once(decision.line())
        if decision.act != "write":
            return Outcome(decision)
        target = "container" if decision.container else "pod"
        why, now = f"{decision.name}: {decision.reason}", shown(decision.now)
        line = self.tree.max_line(decision.wanted)
        if self.dry_run:
            self._once(f"would write {line} to {self.tree.shown(decision.path, 'misc.max')}: {why}; is {now}")
            return Outcome(decision, "would be written")
        return Outcome(decision, self._write(target, decision.path, "misc.max", line, f"{why}; was {now}"))

    def _write(self, target: str, path: str, name: str, text: str, why: str) -> str:
        """One write and its line; "written", "failed" or "gone"."""
        file = self.tree.shown(path, name)
        try:
            self.tree.write(path, name, text)
        except OSError as error:
            result = "gone" if self.tree.gone(error) else "failed"
            if result == "failed":
                self._once(f"cannot write {text} to {file} ({error.strerror}): {why}")
        else:
            result = "written"
            self._say(f"wrote {text} to {file}: {why}")
        self.totals.writes[target, result] += 1
        return result
