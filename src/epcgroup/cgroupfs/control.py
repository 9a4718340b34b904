"""A file to move the numbers of a tree without processes: enclaves and charges by name.

Not a kernel's: `epcgroup.control` stands in the root of `epcgroup mount`'s tree, for root only. One write is one
command, its errno the answer (EBUSY: charge refused, ENOMEM: the enclave's pages found no room, EEXIST, ENOENT,
EINVAL); reading lists what there is.

    enclave NAME CGROUP SIZE      an enclave of SIZE, all its pages added and touched once
    touch NAME                    touches all its pages again, in order
    close NAME                    closes it: all its charges come back
    charge NAME CGROUP SIZE       bytes nobody can reclaim, as a virtual EPC's; RESOURCE may follow (default sgx_epc)
    uncharge NAME [SIZE]          gives them back, or so many of them
    capacity SIZE                 sets misc.capacity; RESOURCE may follow
"""

import errno
from typing import NamedTuple

from epcgroup.cgroupfs.controller import Machines
from epcgroup.cgroupfs.tree import Caller, Cftype, Cgroup, File, Tree, fail
from epcgroup.errors import InputError
from epcgroup.interface import EPC
from epcgroup.machine import MAX_ENCLAVE_PAGES, Batch, Machine
from epcgroup.units import PAGE_SIZE, parse_bytes

NAME = "epcgroup.control"
TRIES = 16  # of a fault that finds no room


class _Charge(NamedTuple):
    cgroup: Cgroup
    resource: str
    row: int
    nr_bytes: int


class Control:
    """The file's state; it puts itself into the tree."""

    def __init__(self, tree: Tree, machines: Machines) -> None:
        self._tree = tree
        self._machines = machines
        self._enclaves: dict[str, tuple[Cgroup, int]] = {}  # cgroup and pages
        self._charges: dict[str, _Charge] = {}
        tree.add_to_root(Cftype(NAME, 0o600, self._show, self._store))

    @property
    def _epc(self) -> Machine:
        return self._machines.resources[EPC]

    def _show(self, tree: Tree, file: File) -> str:
        lines = [
            f"enclave {name} {cgroup.path} {nr_pages * PAGE_SIZE} resident {self._epc.resident_pages(name) * PAGE_SIZE}"
            for name, (cgroup, nr_pages) in self._enclaves.items()
        ]
        lines += [f"charge {name} {c.cgroup.path} {c.nr_bytes} {c.resource}" for name, c in self._charges.items()]
        return "".join(f"{line}\n" for line in lines)

    def _store(self, tree: Tree, file: File, data: bytes, caller: Caller) -> None:
        try:
            match data.decode().split():
                case ["enclave", name, path, size]:
                    self._enclave(name, self._cgroup(path), parse_bytes(size))
                case ["touch", name]:
                    self._touch(self._known(name, self._enclaves))
                case ["close", name]:
                    self._epc.close(self._known(name, self._enclaves))
                    del self._enclaves[name]
                case ["charge", name, path, size]:
                    self._charge(name, self._cgroup(path), parse_bytes(size), EPC)
                case ["charge", name, path, size, resource]:
                    self._charge(name, self._cgroup(path), parse_bytes(size), resource)
                case ["uncharge", name]:
                    self._uncharge(self._known(name, self._charges), None)
                case ["uncharge", name, size]:
                    self._uncharge(self._known(name, self._charges), parse_bytes(size))
                case ["capacity", size]:
                    self._epc.set_capacity(parse_bytes(size))
                case ["capacity", size, resource]:
                    self._machine(resource).set_capacity(parse_bytes(size))
                case _:
                    raise fail(errno.EINVAL, NAME)
        except (InputError, UnicodeDecodeError):
            raise fail(errno.EINVAL, NAME) from None

    def _cgroup(self, path: str) -> Cgroup:
        found = self._tree.find(path)
        if isinstance(found, File):
            raise fail(errno.ENOTDIR, path)
        return found

    def _machine(self, resource: str) -> Machine:
        if resource not in self._machines.resources:
            raise fail(errno.EINVAL, resource)
        return self._machines.resources[resource]

    @staticmethod
    def _known(name: str, names: "dict[str, tuple[Cgroup, int]] | dict[str, _Charge]") -> str:
        if name not in names:
            raise fail(errno.ENOENT, name)
        return name

    def _new(self, name: str) -> None:
        if name in self._enclaves or name in self._charges:
            raise fail(errno.EEXIST, name)

    def _charge(self, name: str, cgroup: Cgroup, nr_bytes: int, resource: str) -> None:
        self._new(name)
        row = self._machine(resource).charge(self._tree.charged(cgroup).path, nr_bytes)
        self._charges[name] = _Charge(cgroup, resource, row, nr_bytes)

    def _uncharge(self, name: str, nr_bytes: int | None) -> None:
        held = self._charges[name]
        given = held.nr_bytes if nr_bytes is None else nr_bytes
        if given > held.nr_bytes:
            raise fail(errno.EINVAL, name)
        self._machine(held.resource).uncharge(held.row, given)
        self._charges[name] = held._replace(nr_bytes=held.nr_bytes - given)
        if given == held.nr_bytes:
            del self._charges[name]

    def _enclave(self, name: str, cgroup: Cgroup, size: int) -> None:
        self._new(name)
        nr_pages = -(-size // PAGE_SIZE)
        if not 0 < nr_pages <= MAX_ENCLAVE_PAGES:
            raise fail(errno.EINVAL, name)
        machine = self._epc
        machine.enclave_create(name, self._tree.charged(cgroup).path, 1 << (nr_pages - 1).bit_length())
        self._enclaves[name] = cgroup, nr_pages
        try:
            done = 0
            while done < nr_pages:
                batch = machine.add_pages(name, done, nr_pages - done)
                done += batch.done
                self._checked(batch)
                self._background()
            machine.init(name)
        except OSError:
            machine.close(name)
            del self._enclaves[name]
            raise
        self._touch(name)

    def _touch(self, name: str) -> None:
        cgroup, nr_pages = self._enclaves[name]
        # The controller may have been enabled or disabled for its cgroup since; a removed cgroup's go to its parent.
        living = next(each for each in cgroup.ancestors() if each.alive)
        self._epc.migrate(name, self._tree.charged(living).path)
        self._checked(self._epc.touch(name, range(nr_pages), retry=TRIES))
        self._background()

    @staticmethod
    def _checked(batch: Batch) -> None:
        if batch.stop is not None:
            raise fail(errno.EBUSY if batch.stop == "EBUSY" else errno.ENOMEM, batch.stop)

    def _background(self) -> None:
        """What the machine's kernel threads would do."""
        while True:
            ksgxd, works = self._epc.woken()
            if not ksgxd and not works:
                return
            if works:
                self._epc.run_works()
            if ksgxd:
                self._epc.ksgxd()
