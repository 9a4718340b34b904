"""What the API server has of one kind, kept up to date by list and watch in a thread of its own.

List in pages, then watch from the list's resourceVersion. A watch that ends is taken up where it stopped (bookmarks
keep that place young); 410 Gone, and an answer that makes no sense, mean listing anew, and objects that are not in the
list are no more. Between attempts that lead to nothing it waits, twice as long each time. `look` never waits but once:
for the first list, or for why there is none.
"""

import json
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from epcgroup.agent.endpoint import PATIENCE, Endpoint, Refused
from epcgroup.agent.source import lighter
from epcgroup.errors import InputError
from epcgroup.units import quoted

T = TypeVar("T")
Key = tuple[str, str]  # namespace, name

PAGE = 50  # objects of one answer: a page of large pods is a few MiB
WATCH_SECONDS = 240  # that the server may let one watch last
MAX_LINE = 8 << 20  # an event; etcd keeps no object of more than 1.5 MiB
FIRST_DELAY, LAST_DELAY = 0.5, 60.0  # seconds between attempts
GONE, TOO_MANY = 410, 429


@dataclass(frozen=True)
class Seen(Generic[T]):
    """The objects as of now. Another `version`: something has changed."""

    version: int
    objects: tuple[T, ...]
    problems: tuple[str, ...]  # events that named no object


class Watch(Generic[T]):
    def __init__(
        self,
        endpoint: Endpoint,
        path: str,
        selector: str,
        read: Callable[[dict[str, Any]], T],
        *,
        page: int = PAGE,
        first_delay: float = FIRST_DELAY,
    ) -> None:
        """Of the objects at `path` that fit the field `selector`. `read` makes of an object what is kept; it raises
        nothing."""
        self._endpoint, self._path, self._query = endpoint, path, {"fieldSelector": selector}
        self._read, self._page, self._first_delay = read, page, first_delay
        self._lock = threading.Lock()
        self._objects: dict[Key, T] = {}
        self._problems: deque[str] = deque(maxlen=20)
        self._version = 0
        self._fault: str | None = None  # why the server cannot be asked now
        self._place: str | None = None  # the resourceVersion to watch from; None: list first
        self._failures = 0  # attempts since the last that brought something
        self._thread: threading.Thread | None = None
        self._first, self._stop = threading.Event(), threading.Event()

    def look(self, known: int = 0) -> Seen[T]:
        """What there is. InputError when the server cannot be asked and nothing is newer than version `known`."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=f"watch {self._path}", daemon=True)
            self._thread.start()
        self._first.wait()
        with self._lock:
            if self._fault is not None and self._version <= known:
                raise InputError(self._fault)
            return Seen(self._version, tuple(self._objects.values()), tuple(self._problems))

    def close(self) -> None:
        """The thread ends when the server says something next, or ends the watch."""
        self._stop.set()

    # ---- in the thread

    def _run(self) -> None:
        while not self._stop.is_set():
            wait, fault = 0.0, None
            try:
                if self._place is None:
                    self._list()
                self._watch()
            except Refused as error:
                wait = error.wait
                if 400 <= error.status < 500 and error.status != TOO_MANY:
                    self._place = None  # also where only the watch is forbidden: a list now and then is better
                if error.status != GONE or not self._version:
                    fault = str(error)
            except InputError as error:
                fault = str(error)
            if fault is not None:
                with self._lock:
                    self._fault = fault
                self._first.set()
            delay = min(LAST_DELAY, self._first_delay * 2 ** min(self._failures, 20))
            self._failures += 1
            # Agents of all nodes lose the same server at the same time.
            self._stop.wait(max(delay * random.uniform(0.5, 1.0), min(wait, LAST_DELAY)))

    def _list(self) -> None:
        objects: dict[Key, T] = {}
        problems: list[str] = []
        query = {**self._query, "limit": str(self._page)}
        place = None
        while True:
            where = f"GET {self._endpoint.url}{self._path}"
            value = _json(self._endpoint.request("GET", self._path, query=query), where)
            items, metadata = value.get("items"), value.get("metadata")
            if not isinstance(items, list | None) or not isinstance(metadata, dict):
                raise InputError("is no list of objects", where=where)
            for item in items or ():
                self._take(objects, problems, item)
            place, following = metadata.get("resourceVersion"), metadata.get("continue")
            if not following:
                break
            if not isinstance(following, str) or following == query.get("continue"):
                raise InputError("goes on where it went on before", where=where)
            query["continue"] = following
        if not isinstance(place, str) or not place:
            raise InputError("a list without resourceVersion", where=where)
        self._place = place
        with self._lock:
            self._objects, self._fault = objects, None
            self._problems.clear()
            self._problems.extend(problems)
            self._version += 1
        self._first.set()

    def _watch(self) -> None:
        query = {
            **self._query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._place or "",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        where = f"watch of {self._endpoint.url}{self._path}"
        with self._endpoint.answer("GET", self._path, query=query, patience=WATCH_SECONDS + PATIENCE) as answer:
            with self._lock:
                self._fault = None
            while not self._stop.is_set() and (line := answer.readline(MAX_LINE + 1)):
                if not line.endswith(b"\n") and len(line) <= MAX_LINE:
                    raise InputError("ended within an event", where=where)
                place, self._place = self._place, None  # what cannot be read may have been a change
                if len(line) > MAX_LINE:
                    raise InputError(f"an event of more than {MAX_LINE >> 20} MiB", where=where)
                self._place = self._event(_json(line, where), where) or place
                self._failures = 0

    def _event(self, event: dict[str, Any], where: str) -> str | None:
        """Takes it in; the resourceVersion to go on from, where it says one."""
        kind, item = event.get("type"), event.get("object")
        if kind == "ERROR":
            status = item if isinstance(item, dict) else {}
            code, message = status.get("code"), quoted(status.get("message"), 200)
            raise Refused(code if isinstance(code, int) and abs(code) < 1000 else 500, message, where)
        if kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
            raise InputError(f"{quoted(kind)} is no event", where=where)
        if kind != "BOOKMARK":
            with self._lock:
                key = self._take(self._objects, self._problems, item)
                if kind == "DELETED" and key is not None:
                    del self._objects[key]
                self._version += 1
        metadata = item.get("metadata") if isinstance(item, dict) else None
        place = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        return place if isinstance(place, str) else None

    def _take(self, objects: dict[Key, T], problems: "list[str] | deque[str]", item: Any) -> Key | None:
        metadata = item.get("metadata") if isinstance(item, dict) else None
        name = metadata.get("name") if isinstance(metadata, dict) else None
        namespace = metadata.get("namespace", "") if isinstance(metadata, dict) else None
        if not isinstance(name, str) or not isinstance(namespace, str):
            line = f"{self._endpoint.url}{self._path}: an object without a name"
            if line not in problems:
                problems.append(line)
            return None
        objects[namespace, name] = self._read(item)
        return namespace, name


def _json(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data, object_hook=lighter)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {quoted(str(error))}", where=where) from None
    if not isinstance(value, dict):
        raise InputError(f"{quoted(value)} is no object", where=where)
    return value
