"""The only way into the ring: an SGX machine with its misc cgroup controller, one method an operation.

A method checks, calls the ring once, and turns errno into MachineError. Ids of enclaves (processes that have
one open) and of virtual EPCs are the caller's strings; cgroups are named by absolute path. Nothing happens by
itself: `ksgxd` and `run_works` are called by whoever owns time. `Batch` results say how far a batch of touches
got and why it stopped.

    m = Machine([Section(0, 256)])
    m.mkdir("/a"); m.write("/a", "misc.max", "sgx_epc 65536")
    m.enclave_create("e", cgroup="/a", nr_pages=64); m.add_pages("e", 0, 20)
"""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from epcgroup import interface
from epcgroup.errors import ERESTARTSYS, MachineError
from epcgroup.kernel import cgroup, cost, epc_page, ioctl, ksgxd, memory_failure, misc, structs, touch, v2, virt
from epcgroup.kernel.jit import CACHE_DIR, Kernel
from epcgroup.kernel.series import install_operations
from epcgroup.trace import STALL_BUCKETS
from epcgroup.units import PAGE_SIZE

SERIES = {"mainline": structs.MAINLINE, "v2": structs.V2, "v17": structs.V17}
COUNTERS = tuple(structs.COUNTERS)  # those an op log shows
ALL_COUNTERS = tuple(structs.ALL_COUNTERS)
ENCLAVE_COUNTERS = ("page_ins", "page_outs", "page_outs_by_others", "faults", "grown")
MAX_ENCLAVE_PAGES = 1 << 24  # 64 GiB, the largest enclave of today's processors
MAX_CGROUPS = 1 << 16  # place and pcmd_who name them in 16 bits
FOREVER = 1 << 62
# Kinds of tracepoint, see drain.
TP_EWB, TP_ELDU, TP_OOM, TP_AGE = structs.TP_EWB, structs.TP_ELDU, structs.TP_OOM, structs.TP_AGE

_ROLES = {"free": structs.ROLE_FREE, "secs": structs.ROLE_SECS, "child": structs.ROLE_CHILD}

# Where Machine._words has what.
_FATAL, _STATUS, _RETRIES, _NR_TRACE, _TRACE_LOST, _GONE_HEAD, _DEAD_HEAD, _KSGXD_WOKEN, _NR_WORKS = (
    structs.GLOBALS.names.index(name)
    for name in (
        "fatal", "status", "retries", "nr_trace", "trace_lost", "gone_head", "dead_head", "ksgxd_woken", "nr_works"
    )
)  # fmt: skip

# Why a batch of touches stopped, besides errno names.
_STOPS = {structs.SIGBUS: "SIGBUS", structs.SEGV: "SEGV", structs.EBUSY: "EBUSY", ERESTARTSYS: "ERESTARTSYS"}


class Section(NamedTuple):
    """One EPC section as the processor reports it."""

    node: int  # NUMA node, 0..63
    nr_pages: int


class Batch(NamedTuple):
    """How far a batch got. `stop`: None (all done), "EBUSY" (a fault to be repeated), "SIGBUS", "SEGV", an errno."""

    done: int
    stop: str | None
    retries: int = 0


class Slice(NamedTuple):
    """What a thread did in a time slice."""

    done: int  # touches
    stop: str | None  # None, "EBUSY" (its fault is still being repeated) or what killed it
    cycles: int  # used
    stall: int  # the part of cycles spent in faults


class MachineDead(Exception):
    """A kernel would have died here: `cause` is "OOPS" or "HANG" (defects of v2, or a loop that cannot end)."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass
class Task:
    """A process: owner of an enclave's mm, or of a virtual EPC."""

    id: str
    row: int  # of k.tasks
    cgroup: int
    enclave: "Enclave | None" = None
    vepc: int = -1


@dataclass
class Enclave:
    """An enclave by the id of the process that created it."""

    id: str
    row: int  # of k.encls
    base: int  # first encl_page
    nr_pages: int
    span: int  # encl_pages reserved
    child_ptes: dict[str, tuple[int, int]]  # forked process -> range in ptes


class _Ranges:
    """First fit over one growing table: rows are handed out in aligned runs and come back."""

    def __init__(self, k: Kernel, tables: Sequence[tuple[str, int]]) -> None:
        self._k = k
        self._tables = tables  # (table, rows a unit is shifted right by)
        self._free: list[tuple[int, int]] = []
        self._end = 0

    def take(self, count: int) -> int:
        for i, (start, length) in enumerate(self._free):
            if length >= count:
                if length == count:
                    del self._free[i]
                else:
                    self._free[i] = (start + count, length - count)
                return start
        start = self._end
        self._end += count
        for table, shift in self._tables:
            size = len(getattr(self._k, table))
            need = (self._end >> shift) + 1
            if size < need:
                self._k.grow(table, max(need, size * 2))
        return start

    def give(self, start: int, count: int) -> None:
        runs = sorted([*self._free, (start, count)])
        merged: list[tuple[int, int]] = []
        for at, length in runs:
            if merged and merged[-1][0] + merged[-1][1] == at:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((at, length))
        self._free = merged


class Machine:
    """An SGX machine. `series` is fixed at boot; sizes are pages.

    `ledger=False` boots a machine that does not keep which frame a page has, its VA slot and its backing pages: the
    same decisions at a third of the cost, but no `poison`, no backing_* counters, and no such fields in a dump.
    `tracing` keeps the exact order of pages written and loaded for `drain`, "ages" also that of accessed bits cleared
    in the process that created the enclave. `enclave_pages` reserves room for so many
    enclave pages (tables grow by themselves, but growing a huge one copies it). `patience` is the number of reschedules
    without progress after which a loop is taken for endless: a task gets a signal, a kernel thread is a HANG.
    """

    def __init__(
        self,
        sections: Sequence[Section],
        series: Literal["mainline", "v2", "v17"] = "v17",
        *,
        sgx2: bool = True,
        tracing: bool | Literal["ages"] = False,
        ledger: bool = True,
        enclave_pages: int = 0,
        patience: int = 1000,
    ) -> None:
        if not 1 <= len(sections) <= structs.MAX_EPC_SECTIONS:
            raise MachineError(errno.EINVAL, f"boot with {len(sections)} EPC sections")
        for section in sections:
            if section.nr_pages < 1 or not 0 <= section.node < 64:
                raise MachineError(errno.EINVAL, f"boot with EPC section {section}")
        self.series = series
        frames = sum(s.nr_pages for s in sections)
        if not ledger and len({s.node for s in sections}) > 4:
            raise MachineError(errno.EINVAL, "boot without ledger with more than 4 NUMA nodes")
        if frames > 1 << 31:
            raise MachineError(errno.EINVAL, f"boot with {frames} EPC pages")
        pages = (1 << 16) + enclave_pages  # an enclave takes up to 33 more than its size
        self._cgroup_rows = 64
        sizes = {
            "g": 1,
            "cgroups": self._cgroup_rows,
            "fifos": structs.FIRST_CGROUP_FIFO + self._cgroup_rows,
            "slots": 0,
            "block_next": 0,
            "tombs": structs.NR_TOMBS,
            "nodes": structs.MAX_EPC_SECTIONS,
            "sections": structs.MAX_EPC_SECTIONS,
            "poison": frames // 8 + 1,
            "encls": 16,
            "mms": 16,
            "tasks": 16,
            "pins": min(frames, max(1 << 22, frames // 64)),  # VA pages of up to eight times the EPC; see vepc_open
            "vepcs": 4,
            "state": pages,
            "kind": pages,
            "place": pages,
            "pcmd": (pages >> 5) + 1,
            "pcmd_who": (pages >> 5) + 1,
            "encl_of": (pages >> 5) + 1,
            "ptes": 1 << 12,
            "vmap": 1 << 12,
            "scan": 2 * structs.NR_TO_SCAN_MAX,
            "counters": len(ALL_COUNTERS),
            "costs": len(ALL_COUNTERS),
            "stalls": 16 * STALL_BUCKETS,
            "trace": (1 << 20) if tracing else 1,
            "ops": len(structs.OPERATIONS),
        }
        if not ledger:
            # Frames have no lists, but every one may hold a listed page.
            sizes["poison"], sizes["place"] = 1, pages
        blocks = self._blocks(frames)
        sizes["slots"] = blocks * 16
        sizes["block_next"] = blocks
        self.k = k = Kernel(sizes)
        self._nr_frames = frames
        g = k.g
        # The same memory as g: numbers of every call's outcome are read thousands of times a second.
        self._words = k.g._record.base.view(np.int64).data
        self._one = np.zeros(1, np.uint32)
        self._one_page, self._one_address = self._one.data, self._one.ctypes.data
        g.series = SERIES[series]
        g.sgx2 = int(sgx2)
        g.nr_frames = frames
        g.capacity = self._capacity = frames * PAGE_SIZE
        g.ledger = int(ledger)
        g.tracing = 2 if tracing == "ages" else int(tracing)
        g.trace_size = sizes["trace"]
        g.serial = 1
        g.block_brk = 1  # block 0 is no block
        for name in ("pin_free", "work_head", "work_tail", "dead_head", "dead_tail", "gone_head", "gone_tail"):
            setattr(g, name, structs.NIL)
        g.zombie_head = structs.NIL
        g.patience = patience
        install_operations(k)
        g.task = structs.NIL
        self._boot_sections(sections)
        cgroup.css_online(k, 0, structs.NIL)
        g.nr_cgroups = 1
        self.cgroups: dict[str, int] = {"/": 0}  # online cgroups by path
        self.paths: dict[int, str] = {0: "/"}  # all cgroups by row; a removed one keeps its path
        self.tasks: dict[str, Task] = {}
        self.vepcs: dict[str, Task] = {}
        self.enclaves: dict[str, Enclave] = {}  # living ones by creating id, in creation order
        self._by_row: dict[int, Enclave] = {}
        self._pages = _Ranges(
            k,
            [("state", 0), ("kind", 0), ("place", 0), ("pcmd", 5), ("pcmd_who", 5), ("encl_of", 5)],
        )
        self._ptes = _Ranges(k, [("ptes", 0)])
        self._vmap = _Ranges(k, [("vmap", 0)])
        self._vepc_spans: dict[int, tuple[int, int]] = {}
        self._closing: list[Enclave] = []  # no process has them open; their pages come back with the last reference
        self._raw_max: dict[int, int] = {}  # misc.max as written
        self._default_node = sections[0].node

    # ---- boot ------------------------------------------------------------------------------------

    @staticmethod
    def _blocks(frames: int) -> int:
        """Blocks that all lists can need: every frame on one, and two that are not full in each possible list."""
        return (frames + structs.NR_TOMBS) // 16 + 2 * (structs.MAX_EPC_SECTIONS + MAX_CGROUPS) + 16

    def _boot_sections(self, sections: Sequence[Section]) -> None:
        """Sections in order; NUMA nodes ascending, as the node mask is walked. Pages become free in address order."""
        k = self.k
        self.node_ids = sorted({s.node for s in sections})
        k.g.nr_nodes = len(self.node_ids)
        for row, number in enumerate(self.node_ids):
            k.nodes[row].id = number
        first = 0
        k.g.nr_sections = len(sections)
        for row, section in enumerate(sections):
            s = k.sections[row]
            s.node = self.node_ids.index(section.node)
            s.first = first
            s.nr_frames = section.nr_pages
            k.nodes[s.node].nr_frames += section.nr_pages
            first += section.nr_pages
        for row in range(len(sections)):
            epc_page.sanitize_section(k, row)

    @property
    def capacity_bytes(self) -> int:
        """misc.capacity."""
        return self._capacity

    @property
    def free_pages(self) -> int:
        """The allocator's counter; poisoned free pages count too."""
        return int(self.k.g.nr_free)

    # ---- context of an operation -----------------------------------------------------------------

    def signal(self, pending: bool = True) -> None:
        """A signal is (no longer) pending for the task of the next operations."""
        self.k.g.signal = int(pending)
        self.k.g.signal_injected = 0

    def _checked(self) -> None:
        fatal = self._words[_FATAL]
        if fatal:
            raise MachineDead("OOPS" if fatal == structs.OOPS else "HANG")

    def settle(self) -> None:
        """Deferred kernel work: the mmu notifier's references, released cgroups."""
        words = self._words
        if words[_GONE_HEAD] != structs.NIL or words[_DEAD_HEAD] != structs.NIL:
            ksgxd.run_deferred(self.k)
        if self._closing:
            self._collect()

    def _collect(self) -> None:
        """Give back the page ranges of enclaves that have been released."""
        k = self.k
        for enclave in [e for e in self._closing if not k.encls[e.row].used]:
            self._closing.remove(enclave)
            self._pages.give(enclave.base, enclave.span)
            del self.enclaves[enclave.id]
            del self._by_row[enclave.row]

    # ---- cgroups ---------------------------------------------------------------------------------

    def _cgroup(self, path: str) -> int:
        row = self.cgroups.get(path)
        if row is None:
            raise MachineError(errno.ENOENT, f"cgroup {path}")
        return row

    def mkdir(self, path: str) -> None:
        """Create a cgroup; MachineError EEXIST, ENOENT (no parent), EINVAL (not an absolute path)."""
        if not path.startswith("/") or (path != "/" and (path.endswith("/") or "//" in path)):
            raise MachineError(errno.EINVAL, f"mkdir {path}")
        if path in self.cgroups:
            raise MachineError(errno.EEXIST, f"mkdir {path}")
        parent = path.rpartition("/")[0] or "/"
        if parent not in self.cgroups:
            raise MachineError(errno.ENOENT, f"mkdir {path}")
        row = self._new_cgroup_row()
        cgroup.css_online(self.k, row, self.cgroups[parent])
        self._raw_max.pop(row, None)
        self.cgroups[path] = row
        self.paths[row] = path

    def _new_cgroup_row(self) -> int:
        k = self.k
        for row in range(1, int(k.g.nr_cgroups)):
            c = k.cgroups[row]
            # A released cgroup may still be named as memory cgroup by pages in a backing store.
            if not c.used and c.backing == 0 and k.fifos[structs.FIRST_CGROUP_FIFO + row].len == 0:
                return row
        row = int(k.g.nr_cgroups)
        if row >= MAX_CGROUPS:
            raise MachineError(errno.ENOSPC, f"mkdir: {MAX_CGROUPS} cgroups exist")
        if row == self._cgroup_rows:
            self._cgroup_rows *= 2
            k.grow("cgroups", self._cgroup_rows)
            k.grow("fifos", structs.FIRST_CGROUP_FIFO + self._cgroup_rows)
        k.g.nr_cgroups = row + 1
        return row

    def rmdir(self, path: str) -> None:
        """Remove a cgroup without tasks and online children; charged pages keep it alive, dying."""
        row = self._cgroup(path)
        k = self.k
        c = k.cgroups[row]
        if path == "/" or c.tasks:
            raise MachineError(errno.EBUSY, f"rmdir {path}")
        child = c.first_child
        while child != structs.NIL:
            if k.cgroups[child].online:
                raise MachineError(errno.EBUSY, f"rmdir {path}")
            child = k.cgroups[child].next
        del self.cgroups[path]
        c.online = 0
        cgroup.css_put(k, row)

    def disable(self, path: str) -> None:
        """The controller is disabled for a cgroup (or its processes have left and it is removed): its processes belong
        to the parent's from now on, its charges stay. MachineError EBUSY: it has children."""
        parent = path.rpartition("/")[0] or "/"
        row = self._cgroup(path)
        if any(other != path and other.startswith(f"{path}/") for other in self.cgroups):
            raise MachineError(errno.EBUSY, f"disable {path}")
        for task in [*self.tasks.values(), *self.vepcs.values()]:
            if int(self.k.tasks[task.row].cgroup) == row:
                self._migrate(task, parent)
        self.rmdir(path)

    def charge(self, path: str, nr_bytes: int) -> int:
        """A charge by somebody who is no enclave (misc_cg_try_charge): nothing is reclaimed for it, and it is nothing
        that could be. The answer is to be given to `uncharge`. MachineError EBUSY, EINVAL (no capacity)."""
        row = self._cgroup(path)
        result = misc.charge_bytes(self.k, row, min(nr_bytes, FOREVER))
        if result < 0:
            raise MachineError(-result, f"charge {nr_bytes} bytes to {path}")
        return row

    def uncharge(self, row: int, nr_bytes: int) -> None:
        """Give back bytes of a charge, also when its cgroup has been removed."""
        misc.uncharge_bytes(self.k, row, nr_bytes)
        self.settle()

    def set_capacity(self, nr_bytes: int) -> None:
        """misc_cg_set_capacity: what may be charged, usage above it stays. The EPC itself is as large as ever."""
        self.k.g.capacity = min(nr_bytes, structs.MAX_UNLIMITED)
        self._capacity = nr_bytes

    def files(self, path: str) -> dict[str, int]:
        """The misc.* files of a cgroup and their modes."""
        return dict(interface.files_of(self.series, root=self._cgroup(path) == 0))

    def _capacities(self) -> dict[str, int]:
        return {} if self.series == "mainline" else {interface.EPC: self.capacity_bytes}

    def limit_bytes(self, path: str) -> int | None:
        """misc.max as written; None for `max`."""
        return self.raw_limit(self._cgroup(path))

    def usage_bytes(self, path: str) -> int:
        """EPC charged to a cgroup and its descendants."""
        return int(self.k.cgroups[self._cgroup(path)].usage)

    def misc(self, path: str) -> interface.Counts:
        """What a cgroup's misc.* files tell of sgx_epc."""
        row = self._cgroup(path)
        c = self.k.cgroups[row]
        raw = self._raw_max.get(row, interface.UNLIMITED)
        return interface.Counts(raw, int(c.usage), int(c.peak), int(c.events), int(c.events_local))

    def read(self, path: str, file: str) -> str:
        """The text of a misc.* file; MachineError ENOENT when the cgroup or the file is not there."""
        row = self._cgroup(path)
        if file not in interface.files_of(self.series, root=row == 0):
            raise MachineError(errno.ENOENT, f"{path}/{file}")
        if self.series == "mainline":
            return ""
        return interface.show(file, {interface.EPC: self.misc(path)}, self._capacities())

    def write(self, path: str, file: str, text: str) -> None:
        """Write a misc.* file as administrator. v2 reclaims, and may kill, before this returns."""
        row = self._cgroup(path)
        modes = interface.files_of(self.series, root=row == 0)
        if file not in modes:
            raise MachineError(errno.ENOENT, f"{path}/{file}")
        if not modes[file] & 0o200:
            raise MachineError(errno.EACCES, f"write {path}/{file}")
        resources = () if self.series == "mainline" else (interface.EPC,)
        _, raw = interface.parse_max(text, ("sev", "sev_es", *resources), self._capacities())
        self.set_limit(path, None if raw == interface.UNLIMITED else raw)

    def set_limit(self, path: str, limit_bytes: int | None) -> None:
        """Store misc.max (None: max), with the series' consequences."""
        row = self._cgroup(path)
        if row == 0:
            raise MachineError(errno.ENOENT, "/misc.max")
        k = self.k
        self._raw_max[row] = interface.UNLIMITED if limit_bytes is None else limit_bytes
        k.cgroups[row].max = structs.MAX_UNLIMITED if limit_bytes is None else min(limit_bytes, structs.MAX_UNLIMITED)
        if self.series == "v2":
            g = k.g
            g.task, g.kthread, g.cgroup, g.idle_resched = structs.NIL, 0, 0, 0
            v2.max_write(k, row)
            self._checked()
        self.settle()

    # ---- tasks and enclaves ----------------------------------------------------------------------

    def _row(self, table: str) -> int:
        """A free row of tasks, mms, encls or vepcs."""
        rows = getattr(self.k, table)
        used = rows["used"]
        free = np.flatnonzero(used == 0)
        if len(free):
            return int(free[0])
        row = len(rows)
        self.k.grow(table, row * 2)
        if table == "tasks":
            self.k.grow("stalls", row * 2 * STALL_BUCKETS)
        return row

    def _new_task(self, id: str, path: str, node: int) -> Task:
        row = self._row("tasks")
        k = self.k
        t = k.tasks[row]
        k.tasks[row : row + 1] = np.zeros(1, structs.TASK)
        k.stalls[row * STALL_BUCKETS : (row + 1) * STALL_BUCKETS] = 0
        t.used = 1
        t.cgroup = self._cgroup(path)
        t.encl = structs.NIL
        t.mm = structs.NIL
        t.node_has_epc = int(node in self.node_ids)
        # Allocation starts at the task's node, or at the next one that has EPC.
        later = [i for i, number in enumerate(self.node_ids) if number >= node]
        t.node = later[0] if later else 0
        k.cgroups[t.cgroup].tasks += 1
        return Task(id, row, int(t.cgroup))

    def _end_task(self, task: Task) -> None:
        k = self.k
        k.tasks[task.row].used = 0
        c = int(k.tasks[task.row].cgroup)
        k.cgroups[c].tasks -= 1
        cgroup.css_put(k, c)

    def _task(self, id: str) -> Task:
        task = self.tasks.get(id)
        if task is None:
            raise MachineError(errno.ENOENT, f"no process {id!r} with an enclave")
        return task

    def enclave_create(self, id: str, cgroup: str = "/", nr_pages: int = 4096, node: int | None = None) -> None:
        """A process that opens an enclave of nr_pages (a power of two) and maps it whole.

        MachineError: EEXIST id in use, ENOENT no such cgroup, EINVAL size or node out of range, EIO not a power of two,
        ENOMEM or ERESTARTSYS from the allocation of its VA and SECS pages. On error everything is undone.
        """
        self._cgroup(cgroup)
        if id in self.tasks:
            raise MachineError(errno.EEXIST, f"enclave {id!r}")
        node = self._default_node if node is None else node
        if not 1 <= nr_pages <= MAX_ENCLAVE_PAGES or not 0 <= node < 64:
            raise MachineError(errno.EINVAL, f"enclave of {nr_pages} pages on node {node}")
        k = self.k
        task = self._new_task(id, cgroup, node)
        row = self._row("encls")
        mm = self._row("mms")
        span = (nr_pages + 1 + 31) // 32 * 32
        base = self._pages.take(span)
        k.encls[row : row + 1] = np.zeros(1, structs.ENCL)
        encl = k.encls[row]
        encl.used, encl.start, encl.length = 1, base, nr_pages
        encl.secs = encl.va_head = encl.va_tail = encl.mm_head = encl.lru_cgroup = structs.NIL
        encl.refs, encl.nr_files, encl.task = 1, 1, task.row
        k.encl_of[base >> 5 : (base + span) >> 5] = row
        k.tasks[task.row].encl = row
        result = ioctl.create(k, task.row, row)
        if result != 0:
            encl.used = 0
            self._pages.give(base, span)
            self._end_task(task)
            self.settle()
            self._checked()
            raise _refusal(result, f"create enclave {id!r}")
        self._add_mm(mm, row, task.row, structs.NIL)
        task.enclave = Enclave(id, row, base, nr_pages, span, {})
        self.tasks[id] = task
        self.enclaves[id] = self._by_row[row] = task.enclave
        self.settle()
        self._checked()

    def _add_mm(self, mm: int, encl_row: int, task_row: int, ptes: int) -> None:
        k = self.k
        m, encl = k.mms[mm], k.encls[encl_row]
        m.used, m.encl, m.task, m.ptes, m.listed, m.detached = 1, encl_row, task_row, ptes, 0, 0
        k.tasks[task_row].mm = mm
        if encl.flags & structs.E_OOM:
            m.detached = 1  # v2: a killed enclave takes no new address space
            return
        m.listed = 1
        m.next = encl.mm_head
        encl.mm_head = mm
        encl.nr_mms += 1
        encl.refs += 1

    def _range(self, task: Task, first: int, count: int, what: str) -> None:
        assert task.enclave is not None
        if count < 1 or first < 0 or first + count > task.enclave.nr_pages:
            raise MachineError(errno.EINVAL, f"{what} pages {first}+{count} of enclave {task.id!r}")

    def add_pages(self, id: str, first: int, count: int = 1, *, measure: bool = False, tcs: bool = False) -> Batch:
        """ENCLAVE_ADD_PAGES. EINVAL after init or outside the enclave; `stop`: the errno that ended it early."""
        task = self._task(id)
        encl = self._encl(task)
        if encl.flags & structs.E_INIT or not encl.flags & structs.E_CREATED:
            raise MachineError(errno.EINVAL, f"add pages to enclave {id!r}: it is initialised")
        self._range(task, first, count, "add")
        return self._batch(ioctl.add_pages(self.k, task.row, first, count, int(measure), int(tcs)))

    def _encl(self, task: Task) -> Any:
        assert task.enclave is not None
        return self.k.encls[task.enclave.row]

    def _batch(self, done: int) -> Batch:
        words = self._words
        batch = Batch(int(done), _stop(-words[_STATUS]), words[_RETRIES])
        words[_RETRIES] = 0
        self.settle()
        self._checked()
        return batch

    def init(self, id: str) -> None:
        """ENCLAVE_INIT; EINVAL when already initialised."""
        task = self._task(id)
        result = ioctl.init(self.k, task.row)
        self._checked()
        if result != 0:
            raise _refusal(result, f"init enclave {id!r}")

    def provision(self, id: str) -> None:
        """ENCLAVE_PROVISION: always allowed, before CREATE and after INIT too."""
        encl = self._encl(self._task(id))
        encl.flags |= structs.E_PROVISION

    def touch(
        self,
        id: str,
        pages: npt.NDArray[np.uint32] | Sequence[int],
        *,
        access: bool = True,
        accept: bool = False,
        only_hits: bool = False,
        retry: int = 0,
    ) -> Batch:
        """Touch pages (offsets in the enclave) in order, as process `id`; stops at the first that fails.

        "EBUSY": the fault found no room and must be repeated once somebody has reclaimed. `retry` repeats it here,
        so many times a page, running deferred work, queued works and a woken ksgxd before each. With `only_hits` an
        access that faulted does not set the accessed bit, as page caches count (a processor sets it).
        """
        task = self._task(id)
        array = np.ascontiguousarray(pages, np.uint32)
        flags = (touch.ACCESS if access else 0) | (touch.ACCEPT if accept else 0)
        flags |= touch.ONLY_HITS if only_hits else 0
        return self._batch(touch.touch(self.k, task.row, array.ctypes.data, len(array), flags, retry))

    def fault(self, id: str, page: int, *, retry: int = 0) -> str | None:
        """`touch` of one page, for a caller that has only one: why it stopped, None when it did not."""
        self._one_page[0] = page
        touch.touch(self.k, self.tasks[id].row, self._one_address, 1, touch.ACCESS, retry)
        self.settle()
        self._checked()
        return _stop(-self._words[_STATUS])

    def touch_segments(
        self,
        segments: npt.NDArray[np.uint32],
        pages: npt.NDArray[np.uint32],
        *,
        only_hits: bool = False,
        retry: int = 0,
    ) -> Batch:
        """`touch` by many processes in turn, in one call: rows of (task_row, touches), and all their pages in order.

        Between two of them all queued works, a woken ksgxd and deferred work run. Stops where a touch fails; `done`
        counts over all segments.
        """
        rows = np.ascontiguousarray(segments, np.uint32)
        array = np.ascontiguousarray(pages, np.uint32)
        tasks = self.k.tasks.array
        assert rows.ndim == 2 and rows.shape[1] == 2 and rows[:, 1].sum() == len(array)
        assert (rows[:, 0] < len(tasks)).all() and (tasks["encl"][rows[:, 0]] != structs.NIL).all()
        flags = touch.ACCESS | (touch.ONLY_HITS if only_hits else 0)
        return self._batch(
            touch.touch_segments(self.k, rows.ctypes.data, len(rows), array.ctypes.data, flags, retry)
        )

    def restrict(self, id: str, first: int, count: int = 1) -> Batch:
        """ENCLAVE_RESTRICT_PERMISSIONS to read-only."""
        return self._sgx2(id, ioctl.RESTRICT, first, count, "restrict")

    def trim(self, id: str, first: int, count: int = 1) -> Batch:
        """ENCLAVE_MODIFY_TYPES to TRIM."""
        return self._sgx2(id, ioctl.MODIFY_TRIM, first, count, "trim")

    def make_tcs(self, id: str, first: int, count: int = 1) -> Batch:
        """ENCLAVE_MODIFY_TYPES to TCS."""
        return self._sgx2(id, ioctl.MODIFY_TCS, first, count, "make TCS of")

    def remove(self, id: str, first: int, count: int = 1) -> Batch:
        """ENCLAVE_REMOVE_PAGES, of pages that were trimmed and accepted."""
        return self._sgx2(id, ioctl.REMOVE, first, count, "remove")

    def _sgx2(self, id: str, what: int, first: int, count: int, verb: str) -> Batch:
        task = self._task(id)
        if not self.k.g.sgx2:
            raise MachineError(errno.ENODEV, f"{verb} pages of enclave {id!r}: no SGX2")
        if not self._encl(task).flags & structs.E_INIT:
            raise MachineError(errno.EINVAL, f"{verb} pages of enclave {id!r}: not initialised")
        self._range(task, first, count, verb)
        return self._batch(ioctl.sgx2_ioctl(self.k, task.row, what, first, count))

    def run(self, id: str, on: bool = True, cpus: int = 1) -> None:
        """Threads run inside the enclave, on so many CPUs (EWB needs IPIs); EAGAIN while its SECS is swapped out."""
        encl = self._encl(self._task(id))
        encl.cpus = cpus
        if encl.secs == structs.NIL:
            raise MachineError(errno.EAGAIN, f"run enclave {id!r}: its SECS is swapped out")
        encl.flags = (encl.flags | structs.E_RUNNING) if on else (encl.flags & ~structs.E_RUNNING)

    def fork(self, id: str, child: str) -> None:
        """A child process with a copied mapping: all PTEs, accessed bits clear in the child; same cgroup and node."""
        task = self._task(id)
        if child in self.tasks:
            raise MachineError(errno.EEXIST, f"process {child!r}")
        enclave = task.enclave
        assert enclave is not None
        k = self.k
        new = self._new_task(child, self.paths[int(k.tasks[task.row].cgroup)], 0)
        k.tasks[new.row].node = k.tasks[task.row].node
        k.tasks[new.row].node_has_epc = k.tasks[task.row].node_has_epc
        k.tasks[new.row].encl = enclave.row
        ptes = self._ptes.take(enclave.nr_pages)
        parent = int(k.mms[k.tasks[task.row].mm].ptes)
        if parent == structs.NIL:
            source = k.state[enclave.base : enclave.base + enclave.nr_pages]
        else:
            source = k.ptes[parent : parent + enclave.nr_pages]
        k.ptes[ptes : ptes + enclave.nr_pages] = source & structs.P_MAPPED
        self._add_mm(self._row("mms"), enclave.row, new.row, ptes)
        k.encls[enclave.row].nr_files += 1
        new.enclave = enclave
        enclave.child_ptes[child] = (ptes, enclave.nr_pages)
        self.tasks[child] = new

    def migrate(self, id: str, path: str) -> None:
        """Move a process to another cgroup; its charges stay where they are."""
        self._migrate(self._task(id), path)

    def _migrate(self, task: Task, path: str) -> None:
        new = self._cgroup(path)
        k = self.k
        old = int(k.tasks[task.row].cgroup)
        k.tasks[task.row].cgroup = new
        k.cgroups[new].tasks += 1
        k.cgroups[old].tasks -= 1
        cgroup.css_put(k, old)
        self.settle()

    def close(self, id: str) -> None:
        """Process exit. The enclave is released when no other process has it."""
        task = self._task(id)
        enclave = task.enclave
        assert enclave is not None
        ioctl.close(self.k, task.row)
        self._end_task(task)
        del self.tasks[id]
        if id in enclave.child_ptes:
            self._ptes.give(*enclave.child_ptes.pop(id))
        if self.k.encls[enclave.row].nr_files == 0:
            self._closing.append(enclave)
        self.settle()
        self._checked()

    # ---- virtual EPC -----------------------------------------------------------------------------

    def _vepc(self, id: str) -> Task:
        task = self.vepcs.get(id)
        if task is None:
            raise MachineError(errno.ENOENT, f"virtual EPC {id!r}")
        return task

    def vepc_open(self, id: str, cgroup: str = "/", nr_pages: int = 1024, node: int | None = None) -> None:
        """A virtual machine monitor that opens and maps virtual EPC for its guest."""
        self._cgroup(cgroup)
        if id in self.vepcs:
            raise MachineError(errno.EEXIST, f"virtual EPC {id!r}")
        node = self._default_node if node is None else node
        if not 1 <= nr_pages <= MAX_ENCLAVE_PAGES or not 0 <= node < 64:
            raise MachineError(errno.EINVAL, f"virtual EPC of {nr_pages} pages on node {node}")
        task = self._new_task(id, cgroup, node)
        row = self._row("vepcs")
        self.k.grow("pins", min(self._nr_frames, len(self.k.pins) + nr_pages))
        at = self._vmap.take(nr_pages)
        v = self.k.vepcs[row]
        v.used, v.map, v.length, v.task = 1, at, nr_pages, task.row
        self._vepc_spans[row] = (at, nr_pages)
        task.vepc = row
        self.vepcs[id] = task

    def vepc_fault(self, id: str, pages: npt.NDArray[np.uint32] | Sequence[int], *, retry: int = 0) -> Batch:
        """The guest touches pages of its virtual EPC."""
        task = self._vepc(id)
        array = np.ascontiguousarray(pages, np.uint32)
        return self._batch(virt.vepc_fault(self.k, task.row, task.vepc, array.ctypes.data, len(array), retry))

    def vepc_guest(self, id: str, page: int, role: str, secs_id: str | None = None, secs_page: int = 0) -> None:
        """What the guest did with a page: "secs", "child" of another page that is a SECS, or "free"."""
        pin, secs = self._vepc_pin(id, page), structs.NIL
        k = self.k
        if role == "child":
            secs = self._vepc_pin(secs_id or id, secs_page)
            if k.pins[secs].role != structs.ROLE_SECS:
                raise MachineError(errno.ENOENT, f"page {secs_page} of virtual EPC {secs_id or id!r} is no SECS")
        if k.pins[pin].used or (role != "free" and k.pins[pin].role != structs.ROLE_FREE):
            raise MachineError(errno.EBUSY, f"page {page} of virtual EPC {id!r} is in use by the guest")
        virt.guest(k, pin, _ROLES[role], secs)

    def _vepc_pin(self, id: str, page: int) -> int:
        task = self._vepc(id)
        at, size = self._vepc_spans[task.vepc]
        if not 0 <= page < size or self.k.vmap[at + page] == 0:
            raise MachineError(errno.ENOENT, f"page {page} of virtual EPC {id!r}")
        return int(self.k.vmap[at + page]) - 1

    def vepc_remove_all(self, id: str) -> int:
        """VEPC_REMOVE_ALL: number of SECS pages still pinned by children."""
        return int(virt.vepc_remove_all(self.k, self._vepc(id).vepc))

    def vepc_migrate(self, id: str, path: str) -> None:
        self._migrate(self._vepc(id), path)

    def vepc_close(self, id: str) -> None:
        """The monitor exits; pages that cannot be removed yet become zombies and stay charged."""
        task = self._vepc(id)
        virt.vepc_release(self.k, task.vepc)
        self._vmap.give(*self._vepc_spans.pop(task.vepc))
        self._end_task(task)
        del self.vepcs[id]
        self.settle()

    # ---- memory errors and background work -------------------------------------------------------

    def poison(self, section: int, page: int) -> None:
        """A memory error at an EPC page; ENXIO when there is no such page."""
        k = self.k
        if not k.g.ledger:
            raise MachineError(errno.EOPNOTSUPP, "poison: the machine was booted without ledger")
        if not 0 <= section < k.g.nr_sections or not 0 <= page < k.sections[section].nr_frames:
            raise MachineError(errno.ENXIO, f"poison section {section} page {page}")
        memory_failure.memory_failure(k, int(k.sections[section].first) + page)

    def ksgxd(self, batches: int = FOREVER) -> bool:
        """Run the background reclaimer until it would sleep, or for so many batches; True when it sleeps."""
        asleep = bool(ksgxd.ksgxd(self.k, batches))
        self._collect()
        self._checked()
        return asleep

    @property
    def ksgxd_woken(self) -> bool:
        return bool(self.k.g.ksgxd_woken)

    def run_works(self) -> None:
        """Run the queued cgroup reclaim works, first in first out, until none is left."""
        ksgxd.run_works(self.k)
        self._collect()
        self._checked()

    def pending_works(self) -> list[str]:
        """Cgroups whose reclaim work is queued, in queue order."""
        k = self.k
        paths, at = [], k.g.work_head
        for _ in range(k.g.nr_works):
            paths.append(self.cgroup_name(at))
            at = k.cgroups[at].work_next
        return paths

    def cgroup_name(self, row: int) -> str:
        """PATH of a cgroup, PATH#SERIAL of a removed one."""
        c = self.k.cgroups[row]
        return self.paths[row] if c.online else f"{self.paths[row]}#{c.serial}"

    def raw_limit(self, row: int) -> int | None:
        """misc.max of a cgroup row as written; None for `max`."""
        raw = self._raw_max.get(row, interface.UNLIMITED)
        return None if raw == interface.UNLIMITED else raw

    def enclave_of(self, v: int) -> Enclave:
        """The enclave that owns an encl_page."""
        return self._by_row[int(self.k.encl_of[v >> 5])]

    def enclave_name(self, row: int) -> str:
        return self._by_row[row].id

    def vepc_name(self, row: int) -> str:
        return next(name for name, task in self.vepcs.items() if task.vepc == row)

    def woke(self) -> bool:
        """Was ksgxd woken since the last call?"""
        woke, self.k.g.woke = bool(self.k.g.woke), 0
        return woke

    # ---- simulated time -----------------------------------------------------------------------------

    def set_costs(self, cycles: dict[str, int], mhz: int) -> None:
        """What each counted operation costs, in cycles, for `spent`, `slice` and stalls; no decision depends on it."""
        for i, name in enumerate(ALL_COUNTERS):
            self.k.costs[i] = cycles.get(name, 0)
        self.k.g.mhz = mhz

    def spent(self) -> int:
        """Cycles of everything since boot."""
        return int(cost.spent(self.k))

    def add_thread(self, id: str) -> int:
        """Another thread of process `id`, with an account of its own: its row for `slice`. Ends with the process."""
        task = self._task(id)
        row = self._row("tasks")
        k = self.k
        k.tasks.array[row] = k.tasks.array[task.row]
        for field in ("cycles", "stall", "open", "limit"):
            setattr(k.tasks[row], field, 0)
        k.stalls[row * STALL_BUCKETS : (row + 1) * STALL_BUCKETS] = 0
        return row

    def end_thread(self, row: int) -> None:
        self.k.tasks[row].used = 0

    def task_row(self, id: str) -> int:
        """The row of process `id` (or virtual EPC owner) for `slice`."""
        return (self.tasks.get(id) or self._vepc(id)).row

    def slice(self, row: int, address: int, n: int, cycles: int, touch_cycles: int) -> Slice:
        """Touches of a thread, n uint32 page offsets at `address`, each computing touch_cycles, until it has used so
        many cycles."""
        k = self.k
        task = k.tasks.array[row]
        begun, stalled = int(task["cycles"]), int(task["stall"])
        task["limit"] = begun + cycles
        task["touch_cycles"] = touch_cycles
        done = int(touch.touch_timed(k, row, address, n))
        words = self._words
        if words[_FATAL]:
            self._checked()
        if words[_DEAD_HEAD] != structs.NIL:
            self.settle()
        return Slice(
            done,
            _stop(-words[_STATUS]),
            int(task["cycles"]) - begun,
            int(task["stall"]) - stalled,
        )

    def add_to_stall(self, row: int, cycles: int) -> None:
        """The fault that a thread is repeating lasts so much longer (it waited for a CPU)."""
        self.k.tasks.array[row]["open"] += cycles

    def woken(self) -> tuple[bool, bool]:
        """Somebody has woken ksgxd; reclaim works are queued."""
        words = self._words
        return bool(words[_KSGXD_WOKEN]), bool(words[_NR_WORKS])

    def stall_histogram(self, row: int) -> npt.NDArray[np.int64]:
        """Faults of a thread by duration (trace.py)."""
        counts: npt.NDArray[np.int64] = self.k.stalls[row * STALL_BUCKETS : (row + 1) * STALL_BUCKETS]
        return counts.copy()

    def work_batch(self, row: int) -> bool:
        """One batch of the reclaim work of a cgroup row (v2: all of it); True when it is done."""
        done = bool(ksgxd.work_batches(self.k, row, 1))
        self.settle()
        self._checked()
        return done

    def next_work(self) -> int | None:
        """Take the next queued work off the queue: its cgroup row."""
        row = int(ksgxd.next_work(self.k))
        return None if row == structs.NIL else row

    def enclave_counters(self, id: str) -> dict[str, int]:
        """What the enclave of process `id` has done since it was created, regular pages only."""
        encl = self._encl(self._task(id))
        return {
            "page_ins": encl.nr_eldu,
            "page_outs": encl.nr_ewb,
            "page_outs_by_others": encl.nr_ewb_others,  # by another enclave's task, ksgxd or another cgroup's work
            "faults": encl.nr_fault,
            "grown": encl.nr_eaug,
        }

    def refused_charges(self, path: str) -> int:
        """misc.events of a cgroup as a number."""
        return int(self.k.cgroups[self._cgroup(path)].events)

    @property
    def refusals(self) -> int:
        """Charges refused anywhere since boot."""
        return int(self.k.counters[structs.C_REFUSED])

    def was_killed(self, id: str) -> bool:
        """v2: the OOM path has zapped the enclave of process `id`."""
        return bool(self._encl(self._task(id)).flags & structs.E_OOM)

    def resident_pages(self, id: str) -> int:
        """Regular pages of an enclave on the EPC."""
        return int(self.k.encls[self.enclaves[id].row].nr_resident)

    def pages_by_node(self, id: str) -> dict[int, int]:
        """Resident regular pages of an enclave by NUMA node (a machine without ledger)."""
        enclave = self.enclaves[id]
        state = self.k.state[enclave.base : enclave.base + enclave.nr_pages]
        nodes = state[(state & structs.P_RESIDENT) != 0] >> structs.P_NODE_SHIFT
        return {self.node_ids[row]: int(n) for row, n in enumerate(np.bincount(nodes)) if n}

    # ---- what happened ---------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Totals since boot, by name (ENCLS leaves, backing pages, faults)."""
        return {name: int(n) for name, n in zip(ALL_COUNTERS, self.k.counters, strict=True)}

    def drain(self) -> Iterator[tuple[int, str, int, int]]:
        """Tracepoints since the last drain: (kind, enclave id, first page, pages); page -1 is the SECS."""
        words = self._words
        assert words[_TRACE_LOST] == 0, "tracepoints were lost: drain more often"
        records = self.k.trace[: words[_NR_TRACE]].tolist()
        words[_NR_TRACE] = 0
        for kind, row, page, n in records:
            enclave = self._by_row[row]
            first = page - enclave.base
            if first + n > enclave.nr_pages:
                # A run that ends with the SECS, the page behind the last.
                if n > 1:
                    yield kind, enclave.id, first, n - 1
                yield kind, enclave.id, -1, 1
            else:
                yield kind, enclave.id, first, n


def is_compiled() -> bool:
    """Whether the ring is in numba's disk cache already; the first run on a machine takes some 15 s to compile it."""
    return any(CACHE_DIR.rglob("*.nbi"))


def _stop(status: int) -> str | None:
    """Why a batch of touches stopped, by the positive number of its status."""
    if status == 0:
        return None
    return _STOPS.get(status) or errno.errorcode[status]


def _refusal(result: int, what: str) -> MachineError:
    return MachineError(-int(result), what)
