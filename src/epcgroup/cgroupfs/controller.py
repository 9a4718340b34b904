"""The misc controller behind a tree: which cgroups have it, the text of their misc.* files, refused charges.

A tree says `online` when a cgroup gets the controller and `offline` when it loses it (rmdir, or -misc above it), by
path, parents first; in between it reads and writes the files. Grammar and text are `interface`'s, numbers and their
consequences a Machine's: one machine for each resource, all with the same cgroups.
"""

import errno
from collections.abc import Mapping, Sequence
from typing import Protocol

from epcgroup import interface
from epcgroup.errors import MachineError
from epcgroup.machine import Machine

COMPILED_IN = ("sev", "sev_es")  # names that misc.max knows on every kernel with the controller


class Controller(Protocol):
    """Paths are those of the tree, "/" its top."""

    series: interface.Series

    def online(self, path: str, *, fresh: bool = True) -> None:
        """`fresh`: its numbers begin at 0; else it is one that was there before."""

    def offline(self, path: str) -> None: ...

    def read(self, path: str, file: str) -> str: ...

    def write(self, path: str, file: str, data: bytes) -> None:
        """OSError with the errno of write(2)."""

    def events(self, path: str) -> tuple[int, int]:
        """Charges refused: here or below, here. They only grow."""

    def refused(self) -> int:
        """Charges refused anywhere: while it stands, no `events` has changed."""


class Machines:
    """The controller of simulated machines. `resources`: name -> machine, in the order in which they are shown."""

    def __init__(self, resources: Mapping[str, Machine], compiled_in: Sequence[str] = COMPILED_IN) -> None:
        self.resources = dict(resources)
        self.series: interface.Series = next(iter(self.resources.values())).series
        self._names = [*compiled_in, *self.resources]

    def _capacities(self) -> dict[str, int]:
        return {name: machine.capacity_bytes for name, machine in self.resources.items()}

    def online(self, path: str, *, fresh: bool = True) -> None:
        for machine in self.resources.values():
            if fresh or path not in machine.cgroups:
                machine.mkdir(path)

    def offline(self, path: str) -> None:
        for machine in self.resources.values():
            machine.disable(path)

    def read(self, path: str, file: str) -> str:
        counts = {name: machine.misc(path) for name, machine in self.resources.items()}
        return interface.show(file, counts, self._capacities())

    def write(self, path: str, file: str, data: bytes) -> None:
        if file != "misc.max":
            raise MachineError(errno.EINVAL, f"write {path}/{file}")
        name, limit = interface.parse_max(data, self._names, self._capacities())
        self.resources[name].set_limit(path, None if limit == interface.UNLIMITED else limit)

    def events(self, path: str) -> tuple[int, int]:
        counts = [machine.misc(path) for machine in self.resources.values()]
        return sum(c.events for c in counts), sum(c.events_local for c in counts)

    def refused(self) -> int:
        return sum(machine.refusals for machine in self.resources.values())


class Below:
    """A controller whose tree is a part of the whole: its top is `prefix` there ("/pod1", or "/" for all)."""

    def __init__(self, whole: Controller, prefix: str) -> None:
        self._whole = whole
        self._prefix = prefix.rstrip("/")
        self.series = whole.series

    def _path(self, path: str) -> str:
        return (self._prefix + path).rstrip("/") or "/"

    def online(self, path: str, *, fresh: bool = True) -> None:
        self._whole.online(self._path(path), fresh=fresh)

    def offline(self, path: str) -> None:
        self._whole.offline(self._path(path))

    def read(self, path: str, file: str) -> str:
        return self._whole.read(self._path(path), file)

    def write(self, path: str, file: str, data: bytes) -> None:
        self._whole.write(self._path(path), file, data)

    def events(self, path: str) -> tuple[int, int]:
        return self._whole.events(self._path(path))

    def refused(self) -> int:
        return self._whole.refused()
