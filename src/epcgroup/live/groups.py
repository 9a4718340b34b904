"""The machine's groups, kept like the host's cgroup2 tree, and which of them each enclave is charged to.

A group comes into being when an enclave is in it, its misc.max is written, or a mounted tree asks for it; it goes
when the host no longer has it and nobody is charged there. An enclave follows its process: `follow` looks where each
one is now. What an enclave does is counted for the group it is in at the time, and stays counted when it has ended.
"""

import errno
import os
from dataclasses import dataclass, field

from epcgroup.errors import MachineError
from epcgroup.live import cgroups, uffd
from epcgroup.live.pager import COUNTERS, Area
from epcgroup.machine import ENCLAVE_COUNTERS, Machine

PRUNE_AFTER = 256  # groups made, those are looked for that the host has removed


@dataclass(eq=False)
class _Member:
    """An enclave, and where it is."""

    area: Area
    pid: int
    group: str
    counted: dict[str, int] = field(default_factory=dict)  # of its counters, in the counters of groups


class Groups:
    """Groups are cgroup2 paths, "/" included. The enclaves in them have the same ids here, in areas and the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        # Of the kernel itself: a tree mounted over a part of it would ask us.
        self._cgroup2 = -1 if cgroups.mount_point() is None else uffd.new_mount(b"cgroup2")
        self._members: dict[str, _Member] = {}  # by enclave
        self._inodes: dict[str, int | None] = {}  # by group: which directory of that name it is
        self._prune_at = PRUNE_AFTER
        self._done: dict[str, dict[str, int]] = {}  # counters by group
        self._ceiling: dict[str, int] = {}  # usage may not be above

    def close(self) -> None:
        if self._cgroup2 >= 0:
            os.close(self._cgroup2)

    # ---- enclaves ----------------------------------------------------------------------------------

    def join(self, area: Area, pid: int, group: str) -> None:
        """The machine has made this enclave in the group."""
        self._members[area.id] = _Member(area, pid, group)

    def leave(self, area: Area) -> None:
        """The enclave is about to end: the last time that its counters can be read."""
        self._count(self._members.pop(area.id))

    def of(self, area: Area) -> str:
        """The group that the enclave is charged to."""
        return self._members[area.id].group

    def follow(self) -> list[str]:
        """From now on a process is charged where it is; what was charged before stays where it was.

        Returns the enclaves that have moved.
        """
        moved = []
        for name, member in self._members.items():
            try:
                group = cgroups.path_of(member.pid)
                if group == member.group:
                    continue
                self.make(group)
            except OSError:  # it has gone, is out of our sight, or there are too many groups
                continue
            self._count(member)
            self.machine.migrate(name, group)
            member.group = group
            moved.append(name)
        return moved

    def counters(self, group: str) -> dict[str, int]:
        """What the enclaves of a group have done, ended ones included: what the pager carried out, and (page_ins,
        page_outs, page_outs_by_others, faults, grown) what the machine counted."""
        for member in self._members.values():
            if member.group == group:
                self._count(member)
        return dict.fromkeys((*COUNTERS, *ENCLAVE_COUNTERS), 0) | self._done.get(group, {})

    def _count(self, member: _Member) -> None:
        """Add what the enclave has done since the last time to its group's counters."""
        totals = self._done.setdefault(member.group, dict.fromkeys((*COUNTERS, *ENCLAVE_COUNTERS), 0))
        for name, count in {**member.area.counters, **self.machine.enclave_counters(member.area.id)}.items():
            totals[name] += count - member.counted.get(name, 0)
            member.counted[name] = count

    # ---- groups ------------------------------------------------------------------------------------

    def make(self, path: str) -> None:
        """Make a group and those above it, as far as they are not there. OSError of the machine: too many."""
        names = [name for name in path.split("/") if name]
        paths = ["/" + "/".join(names[: n + 1]) for n in range(len(names))]
        inodes = {at: cgroups.inode_of(self._cgroup2, at) for at in paths}
        # The host has removed one, and made another of the same name; or many have come, and who knows how many gone.
        replaced = any(at in self._inodes and self._inodes[at] != inode for at, inode in inodes.items())
        if replaced or len(self.machine.cgroups) >= self._prune_at:
            self.prune()
            self._prune_at = 2 * len(self.machine.cgroups) + PRUNE_AFTER
        for at, inode in inodes.items():
            if at not in self.machine.cgroups:
                self.machine.mkdir(at)
                self._inodes[at] = inode
                # A removed group of the same name may have had a ceiling.
                self._ceiling.pop(at, None)

    def drop(self, path: str) -> None:
        """The controller is taken from a group and all below; who is in one is charged in the parent, or, at its next
        `follow`, in a new group of the same path."""
        parent = path.rpartition("/")[0] or "/"
        for at in sorted(self.machine.cgroups, reverse=True):
            if at == path or at.startswith(f"{path}/"):
                self.machine.disable(at)
                self._done.pop(at, None)
        for member in self._members.values():
            if member.group == path or member.group.startswith(f"{path}/"):
                member.group = parent

    def prune(self) -> None:
        """Forget groups that the host no longer has and nobody is in."""
        if self._cgroup2 < 0:
            return
        for path in sorted(self.machine.cgroups, reverse=True):
            inode = cgroups.inode_of(self._cgroup2, path)
            if path == "/" or (inode is not None and inode == self._inodes.get(path)):
                continue
            try:
                self.machine.rmdir(path)
            except MachineError as error:
                if error.errno != errno.EBUSY:
                    raise
                continue
            self._done.pop(path, None)
            self._inodes.pop(path, None)

    def write(self, group: str, file: str, text: str) -> None:
        """Write a misc.* file. A group that the host has but nobody used EPC in yet comes into being. InputError."""
        cgroups.check_path(group)
        if cgroups.inode_of(self._cgroup2, group) is not None:
            self.make(group)
        self._ceiling.pop(group, None)  # the new limit's begins with today's usage
        self.machine.write(group, file, text)

    def assert_within_limits(self) -> None:
        """To be called at every turn, or a rise above a lowered limit is not seen."""
        m = self.machine
        for path in m.cgroups:
            usage, limit = m.usage_bytes(path), m.limit_bytes(path)
            if limit is None:
                self._ceiling.pop(path, None)
                continue
            # A limit below usage frees nothing by itself; but from then on usage only falls.
            ceiling = self._ceiling[path] = max(limit, min(usage, self._ceiling.get(path, usage)))
            assert usage <= ceiling, f"{path} uses {usage}, may use {ceiling}"
