"""Kubernetes Events of pods: charges that a limit refused, limits that cannot be set, annotations that cannot be read.

One Event a pod and reason, which is brought up to date (count, message, time) at most once a minute; refused charges of
the minute between are added up. Of all pods together BURST Events go out at once and then one every SECONDS_EACH; what
waits is sent later, the longest waiting first, and nothing is lost by waiting. Charges that were refused before the
agent's first look are nobody's news. Nothing is sent in a dry run.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from epcgroup.agent.endpoint import MERGE_PATCH, Endpoint, Refused
from epcgroup.agent.policy import shown
from epcgroup.agent.reconcile import Reconciler, Snapshot
from epcgroup.errors import InputError
from epcgroup.manifest.pod import Instance

LIMIT_HIT, NOT_SET, INVALID = "EpcLimitHit", "EpcLimitNotSet", "EpcAnnotationInvalid"
COMPONENT = "epcgroup-agent"
AGAIN = 60.0  # seconds between two messages of one Event
BURST, SECONDS_EACH = 25, 5.0
MAX_MESSAGE, MAX_NAME, MAX_COUNT = 1024, 253, 2**31 - 1
NOT_FOUND, CONFLICT = 404, 409


@dataclass
class _News:
    """What one Event is about, and what of it was not sent yet."""

    pod: Instance
    reason: str
    container: str = ""
    text: str = ""
    hits: int = 0  # refused charges since the last message
    waiting: bool = False
    since: float = 0.0  # when it began to wait
    sent_at: float = float("-inf")
    first: str = ""
    count: int = 0  # as the Event says; 0: it may be there, of an agent before

    def message(self) -> str:
        if self.reason != LIMIT_HIT:
            return _cut(self.text)
        return _cut(f"{self.hits} EPC charge{'s' if self.hits > 1 else ''} refused by {self.text}")


@dataclass
class EventRecorder:
    endpoint: Endpoint
    node: str
    agent: Reconciler
    once: Callable[[str], None]
    dry_run: bool = False
    _news: dict[tuple[str, str, str], _News] = field(default_factory=dict)  # by UID, reason, container
    _hits: dict[str, int] | None = None  # by path, as of the last look; None: there was none
    _above: dict[str, int] = field(default_factory=dict)  # of pods, with their containers'
    _budget: float = BURST
    _at: float = 0.0

    def turn(self, snapshot: Snapshot) -> None:
        """Look at the counters of all pods and send what is due. InputError when the API server cannot be asked; what
        was to be said is then said later."""
        now = snapshot.at
        self._look(snapshot)
        self._budget = min(BURST, self._budget + max(0.0, now - (self._at or now)) / SECONDS_EACH)
        self._at = now
        due = [news for news in self._news.values() if news.waiting and now - news.sent_at >= AGAIN]
        for news in sorted(due, key=lambda news: news.since):
            if self._budget < 1:
                break
            self._budget -= 1
            self._send(news, now)
        there = {pod.instance.uid for pod in snapshot.pods} | snapshot.groups.keys()
        self._news = {key: news for key, news in self._news.items() if news.waiting or key[0] in there}

    # ---- what there is to say

    def _look(self, snapshot: Snapshot) -> None:
        now = snapshot.at
        pods = {pod.instance.uid: pod for pod in snapshot.pods}
        for instance, container, path, hits in self._new_hits(snapshot):
            limit = self._read(self.agent.tree.value, path, "misc.max")
            whose = f"the limit of container {container}" if container else "the pod's limit"
            news = self._about(instance, LIMIT_HIT, container)
            news.text = f"{whose}, {shown(limit)}" if limit is not None else whose
            news.hits += hits
            self._wait(news, now)
        for uid, pod in pods.items():
            if pod.faults:
                self._say(self._about(pod.instance, INVALID, ""), "; ".join(pod.faults), now)
            elif (uid, INVALID, "") in self._news:
                self._about(pod.instance, INVALID, "").text = ""  # said again when it is wrong again
        by_name = {(pod.instance.pod.namespace, pod.instance.pod.name): pod.instance for pod in snapshot.pods}
        for outcome in snapshot.outcomes:
            decision = outcome.decision
            instance = by_name[decision.namespace, decision.pod]
            cannot = decision.act == "cannot" and snapshot.capacity_bytes
            if outcome.result == "failed":
                line = f"{decision.line()}; it could not be written"
            elif cannot and self.agent.rules.mode_of(decision.namespace) == "enforce":
                line = decision.line()
            else:
                if (instance.uid, NOT_SET, decision.container) in self._news:
                    self._about(instance, NOT_SET, decision.container).text = ""
                continue
            self._say(self._about(instance, NOT_SET, decision.container), line, now)

    def _new_hits(self, snapshot: Snapshot) -> Iterator[tuple[Instance, str, str, int]]:
        """(pod, container or "", path, charges refused by its own limit since the last look). A pod's counter, which
        holds those of its containers, says whether they are looked at: the kernel counts there last."""
        pods = {pod.instance.uid: pod.instance for pod in snapshot.pods}
        first = self._hits is None
        old_hits, old_above = self._hits or {}, self._above
        hits: dict[str, int] = {}
        above: dict[str, int] = {}
        for uid, group in snapshot.groups.items():
            paths = {**({"": group.path} if group.path is not None else {}), **group.containers}
            known = {path: old_hits[path] for path in paths.values() if path in old_hits}
            if uid not in pods and not first:
                hits |= known  # a source may know it next time
                continue
            if group.path is not None:
                total = self._events(group.path, "misc.events") or 0
                above[group.path] = total
                if total == old_above.get(group.path, 0):
                    hits |= known
                    continue
            for identity, path in paths.items():
                local = self._events(path, "misc.events.local")
                if local is None and identity:
                    local = self._events(path, "misc.events")  # a container's are its own
                if local is None:
                    continue
                hits[path] = local
                more = local - old_hits.get(path, 0)
                if more > 0 and not first:
                    yield pods[uid], pods[uid].container_ids.get(identity, ""), path, more
        self._hits, self._above = hits, above

    def _events(self, path: str, name: str) -> int | None:
        return self._read(self.agent.tree.events, path, name)

    def _read(self, read: Callable[[str, str], int | None], path: str, name: str) -> int | None:
        try:
            return read(path, name)
        except InputError as error:
            self.once(str(error))
            return None

    def _about(self, pod: Instance, reason: str, container: str) -> _News:
        news = self._news.setdefault((pod.uid, reason, container), _News(pod, reason, container))
        news.pod = pod
        return news

    def _say(self, news: _News, text: str, now: float) -> None:
        """A text is said once, and again when it has changed."""
        if news.text != text:
            news.text = text
            self._wait(news, now)

    @staticmethod
    def _wait(news: _News, now: float) -> None:
        if not news.waiting:
            news.waiting, news.since = True, now

    # ---- saying it

    def _send(self, news: _News, now: float) -> None:
        if not news.text:
            news.waiting = False  # no longer so, before it could be said
            return
        pod = news.pod.pod
        if self.dry_run:
            self.once(f"would send Event {news.reason} of {pod.namespace}/{pod.name}: {news.message()}")
        else:
            try:
                self._write(news, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))
            except Refused as error:
                if error.status >= 500 or error.status == 429:
                    raise
                self.once(str(error))  # it would be refused again
        news.waiting, news.hits, news.sent_at = False, 0, now

    def _write(self, news: _News, at: str) -> None:
        """Three requests at most: anew, or what is there brought up to date."""
        name = _name(news)
        path = f"/api/v1/namespaces/{quote(news.pod.pod.namespace, safe='')}/events"
        more = news.hits or 1
        if not news.count:
            try:
                self.endpoint.request("POST", path, body=self._event(news, name, at, more))
                news.count = more
                return
            except Refused as error:
                if error.status != CONFLICT:
                    raise
            news.count = _count(self.endpoint.request("GET", f"{path}/{name}"))
        count = min(MAX_COUNT, news.count + more)
        body = {"count": count, "message": news.message(), "lastTimestamp": at}
        try:
            self.endpoint.request("PATCH", f"{path}/{name}", body=body, content_type=MERGE_PATCH)
        except Refused as error:
            if error.status != NOT_FOUND:
                raise
            # The API server forgets Events after an hour.
            self.endpoint.request("POST", path, body=self._event(news, name, at, more))
            count = more
        news.count = count

    def _event(self, news: _News, name: str, at: str, count: int) -> dict[str, Any]:
        pod = news.pod.pod
        involved = {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name}
        involved["uid"] = news.pod.uid
        if news.container:
            involved["fieldPath"] = f"spec.containers{{{news.container}}}"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": pod.namespace, "name": name},
            "involvedObject": involved,
            "reason": news.reason,
            "message": news.message(),
            "type": "Warning",
            "count": min(MAX_COUNT, count),
            "firstTimestamp": at,
            "lastTimestamp": at,
            "source": {"component": COMPONENT, "host": self.node},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.node,
        }


def _name(news: _News) -> str:
    """The same for every agent on the node, so that the next one finds it."""
    own = hashlib.blake2b(f"{news.pod.uid} {news.reason} {news.container}".encode(), digest_size=8).hexdigest()
    return f"{news.pod.pod.name[: MAX_NAME - 17].rstrip('-.')}.{own}"


def _count(answer: bytes) -> int:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return 0  # it only makes the count too small
    count = value.get("count") if isinstance(value, dict) else None
    return count if isinstance(count, int) and 0 <= count <= MAX_COUNT else 0


def _cut(text: str) -> str:
    """The API server takes no more than 1024 bytes."""
    data = " ".join(text.split()).encode("utf-8", "replace")
    cut = data if len(data) <= MAX_MESSAGE else data[: MAX_MESSAGE - 3] + b"..."
    return cut.decode("utf-8", "ignore")
