"""The SGX EPC memory manager and its misc cgroup controller as plain objects: the rules, written to be read.

One `Machine` is one booted computer: EPC pages in sections and NUMA nodes, enclaves, virtual EPC, a cgroup
tree, ksgxd and a work queue. The series stand as subclasses towards the end, each telling only what is its
own: `Mainline` (one LRU, no limit), `V17` (the last posted version, August 2024) and `V2` (the seed series,
December 2022, OOM killing and defects included). `Replayer` drives a machine with an op log.

Function names are the kernel's, less sgx_. Everything runs single threaded: an operation runs to its end,
`queue_work` and a wake-up of ksgxd only leave a note, and what the kernel defers (mmu-notifier frees, css
releases) waits for `run_deferred`. Left out: page contents, keys, measurements, time. Slow on purpose.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

PAGE = 4096
NR_TO_SCAN = 16  # pages taken off a list per reclaim batch
NR_LOW_PAGES = 32  # free pages below which an allocation wakes ksgxd
NR_HIGH_PAGES = 64  # free pages below which ksgxd keeps working
VA_SLOT_COUNT = 512  # version slots in a version-array page
PCMDS_PER_PAGE = 32  # 128-byte records in a backing page
NO_LIMIT = 2**64 - 1

COUNTERS = (  # in the order results show them
    *("ECREATE", "EADD", "EEXTEND", "EINIT", "EREMOVE", "EBLOCK", "ETRACK", "EWB", "EWB_NT", "ELDU"),
    *("EAUG", "EPA", "EMODT", "EMODPR", "IPI", "backing_alloc", "backing_free", "fault", "encls_err"),
)


class Errno(Exception):
    """The machine's answer is an error; `args[0]` is its name ("ENOMEM"; faults: "EBUSY", "SIGBUS", "SEGV",
    "OOM").
    """

    @property
    def name(self) -> str:
        return str(self.args[0])


class Fatal(Exception):
    """The kernel is gone: every further operation answers DEAD. `name` is what this one answers."""

    name = ""


class Oops(Fatal):
    """A NULL pointer was dereferenced."""

    name = "OOPS"


class Hang(Fatal):
    """A loop that can make no progress and that no signal can end."""

    name = "HANG"


# -------------------------------------------------------------------------------------------- lists and pages


class PageList:
    """A kernel list_head of pages: head first, O(1) at both ends and for unlinking."""

    def __init__(self) -> None:
        self._pages: OrderedDict[EpcPage, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pages)

    def __iter__(self) -> Iterator[EpcPage]:
        return iter(self._pages)

    def head(self) -> EpcPage:
        return next(iter(self._pages))

    def add_tail(self, page: EpcPage) -> None:
        assert page.list is None, "page is already on a list"
        self._pages[page] = None
        page.list = self

    def add_head(self, page: EpcPage) -> None:
        self.add_tail(page)
        self._pages.move_to_end(page, last=False)

    def pop_head(self) -> EpcPage:
        page = self.head()
        self.unlink(page)
        return page

    def unlink(self, page: EpcPage) -> None:
        del self._pages[page]
        page.list = None


class EpcPage:
    """One 4096-byte page of a section: what the kernel's record and what the CPU's EPCM know about it."""

    def __init__(self, section: int, index: int, node: Node) -> None:
        self.section, self.index, self.node = section, index, node
        self.poison = False
        self.free = False
        self.flags: set[str] = set()
        self.owner: EnclPage | Enclave | Vepc | None = None
        self.list: PageList | None = None
        self.cg: Cgroup | None = None  # who is charged
        self.epcm: Epcm | None = None  # None: not a valid page for the CPU


class Epcm:
    """The CPU's entry of a valid page. A SECS also keeps its children and the state of ETRACK here."""

    def __init__(self, type_: str, secs: EpcPage | None = None) -> None:
        self.type = type_  # "secs", "va", "reg"
        self.secs = secs
        self.blocked_at: int | None = None  # tracking epoch of the SECS when the page was blocked
        # SECS only:
        self.children = 0
        self.epoch = 0  # ETRACKs so far
        self.ipi_epoch = 0  # ETRACKs so far when the last IPI drove the threads out
        self.running = False


class Node:
    """A NUMA node with EPC."""

    def __init__(self, nid: int) -> None:
        self.nid = nid
        self.free_list = PageList()
        self.poison_list = PageList()


# ---------------------------------------------------------------------------------------- enclaves, processes


class Mm:
    """One process's address space: one mapping of one enclave. `pte`: page -> accessed bit."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.pte: dict[int, bool] = {}


class Task:
    """A thread of control: a process with an mm, the administrator's shell, ksgxd or a kworker."""

    def __init__(self, name: str, cgroup: Cgroup, node: int, *, kthread: bool = False) -> None:
        self.name, self.cgroup, self.node, self.kthread = name, cgroup, node, kthread
        self.mm: Mm | None = None
        self.encl: Enclave | None = None  # of the open file
        self.vma_encl: Enclave | None = None  # of the mapping; None after a fork the driver refused
        self.signal_pending = False
        self.killable = True  # may the schedule inject a signal


class EnclPage:
    """An address of an enclave, resident or not. `page` -1 is the SECS."""

    def __init__(self, encl: Enclave, page: int, type_: str) -> None:
        self.encl, self.page, self.type = encl, page, type_
        self.epc_page: EpcPage | None = None
        self.va: tuple[VaPage, int] | None = None  # where the version is kept while the page is swapped out
        self.being_reclaimed = False
        self.modified = False  # EPCM.MODIFIED: the type was changed and EACCEPT has not seen it
        self.written: Epcm | None = None  # a swapped-out SECS keeps what the CPU kept in it


class VaPage:
    """A version-array page: 512 slots as a bit mask."""

    def __init__(self, epc_page: EpcPage) -> None:
        self.epc_page = epc_page
        self.slots = 0

    def alloc_slot(self) -> int:
        slot = (~self.slots & (self.slots + 1)).bit_length() - 1  # lowest clear bit
        assert slot < VA_SLOT_COUNT
        self.slots |= 1 << slot
        return slot

    def full(self) -> bool:
        return self.slots == (1 << VA_SLOT_COUNT) - 1


class Enclave:
    """One open enclave file, by the id of the process that created it."""

    def __init__(self, id_: str, size: int) -> None:
        self.id, self.size = id_, size
        self.created = self.initialized = self.oom = False
        self.refcount = 1
        self.processes: list[Task] = []
        self.mm_list: list[Mm] = []  # newest first
        self.page_array: dict[int, EnclPage] = {}
        self.secs = EnclPage(self, -1, "secs")
        self.secs_child_cnt = 0
        self.page_cnt = 0
        self.va_pages: OrderedDict[VaPage, None] = OrderedDict()  # list head first
        self.backing: dict[int, Cgroup] = {}  # shmem page index -> memory cgroup charged for it
        self.pcmd: dict[int, set[int]] = {}  # shmem page index -> page indexes with a non-zero record in it

    def page_index(self, encl_page: EnclPage) -> int:
        return self.size if encl_page.page < 0 else encl_page.page

    def pcmd_index(self, page_index: int) -> int:
        return self.size + 1 + page_index // PCMDS_PER_PAGE


class Vepc:
    """One open virtual EPC file: page index -> EPC page."""

    def __init__(self, id_: str, size: int, task: Task) -> None:
        self.id, self.size, self.task = id_, size, task
        self.page_array: dict[int, EpcPage] = {}


# ---------------------------------------------------------------------------------------------------- cgroups


class Cgroup:
    """A cgroup with its misc css, and the EPC state the series keeps in it."""

    def __init__(self, name: str, parent: Cgroup | None, serial: int) -> None:
        self.name, self.parent, self.serial = name, parent, serial
        self.children: list[Cgroup] = []  # dying ones included, in creation order
        self.online = True
        self.refs = 1
        self.tasks = 0
        self.max = NO_LIMIT
        self.usage = 0
        self.events = 0
        self.events_local = 0
        self.peak = 0
        self.backing = 0  # live shmem pages charged to it as a memory cgroup
        self.lru = PageList()  # reclaimable pages
        self.unreclaimable = PageList()  # v2
        self.reclaim_iter: Cgroup | None = None  # v2: the cgroup the last shared walk from here visited
        self.epoch = 0  # v2: walks from here that reached the end
        self.next_cg: Cgroup = self  # v17: where the next reclaim of this subtree starts

    def base_path(self) -> str:
        if self.parent is None:
            return "/"
        return self.parent.base_path().rstrip("/") + "/" + self.name

    def path(self) -> str:
        return self.base_path() if self.online else f"{self.base_path()}#{self.serial}"

    def ancestors(self) -> Iterator[Cgroup]:
        """This cgroup, its parent, ... up to the root."""
        cg: Cgroup | None = self
        while cg is not None:
            yield cg
            cg = cg.parent

    def descendants(self) -> Iterator[Cgroup]:
        """Pre-order, this cgroup first, children in creation order."""
        yield self
        for child in self.children:
            yield from child.descendants()

    def max_pages(self) -> int:
        return self.max // PAGE


def next_descendant_pre(pos: Cgroup | None, root: Cgroup) -> Cgroup | None:
    """css_next_descendant_pre: `pos` None starts at the root; a released `pos` is found again by its serial
    number.
    """
    if pos is None:
        return root
    if pos.children:
        return pos.children[0]
    while pos is not root:
        parent = pos.parent
        assert parent is not None
        for sibling in parent.children:
            if sibling.serial > pos.serial:
                return sibling
        pos = parent
    return None


def parse_max(text: str, resources: tuple[str, ...]) -> int:
    """The text written to misc.max, "sgx_epc NUMBER" or "sgx_epc max", as bytes."""
    resource, space, value = text.split("\0")[0].strip(" \t\n\v\f\r\xa0").partition(" ")
    if not space or resource not in resources:
        raise Errno("EINVAL")
    limit = NO_LIMIT if value == "max" else kstrtou64(value)
    if resource != "sgx_epc":
        raise Errno("EINVAL")  # sev, sev_es: capacity 0
    return limit


def kstrtou64(text: str) -> int:
    """An unsigned number as the kernel reads it: 0x.., leading 0 octal, else decimal; overflow beats trailing
    rubbish.
    """
    text = text.removeprefix("+")
    base, digits = 10, text
    if text.startswith("0"):
        base = 8
        if text[1:2] in ("x", "X") and text[2:3] in tuple("0123456789abcdefABCDEF"):
            base, digits = 16, text[2:]
    count = 0
    value = 0
    for char in digits:
        digit = "0123456789abcdef".find(char.lower())
        if not 0 <= digit < base:
            break
        value = value * base + digit
        count += 1
    if value > NO_LIMIT:
        raise Errno("ERANGE")
    rest = digits[count:]
    if count == 0 or rest not in ("", "\n"):
        raise Errno("EINVAL")
    return value


# ------------------------------------------------------------------------------------------------ the machine


class Machine:
    """What all series share: EPC pages, the CPU, the enclave and virtual EPC drivers, the cgroup tree, the
    schedule.
    """

    series = ""
    resources: tuple[str, ...] = ("sev", "sev_es", "sgx_epc")  # the misc controller's, compiled in

    def __init__(self, sections: list[dict[str, int]], *, sgx2: bool = True, k_sig: int = 1000) -> None:
        self.sgx2 = sgx2
        self.k_sig = k_sig
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.ewb: list[tuple[str, int]] = []
        self.eldu: list[tuple[str, int]] = []
        self.warn: list[str] = []
        self.oom_killed: list[Enclave] = []
        self.woke = False
        self.signal_injected = False
        self.ticks = 0

        self.next_serial = 1
        self.root = self.new_cgroup("", None)
        self.tasks: dict[str, Task] = {}  # enclave processes by id, in creation order
        self.vepcs: dict[str, Vepc] = {}
        self.zombie_secs_pages = PageList()
        self.notifier_frees: deque[Enclave] = deque()
        self.css_releases: deque[Cgroup] = deque()
        self.works: deque[Cgroup] = deque()
        self.ksgxd_woken = False
        self.admin = Task("admin", self.root, 0)
        self.ksgxd_task = Task("ksgxd", self.root, 0, kthread=True)
        self.kworker = Task("kworker", self.root, 0, kthread=True)
        self.current = self.admin

        self.nodes: dict[int, Node] = {}
        self.sections: list[list[EpcPage]] = []
        self.nr_free_pages = 0
        self.capacity = 0
        for number, section in enumerate(sections):
            node = self.nodes.setdefault(section["node"], Node(section["node"]))
            pages = [EpcPage(number, index, node) for index in range(section["pages"])]
            self.sections.append(pages)
            self.capacity += len(pages) * PAGE
            for page in pages:  # ksgxd has sanitized them
                page.free = True
                node.free_list.add_tail(page)
                self.nr_free_pages += 1

    # --- what a series decides ------------------------------------------------------------------------------

    def charge(self, cg: Cgroup, reclaim: bool) -> None:
        """Charge one page to `cg`, or raise ENOMEM, EBUSY, ERESTARTSYS."""
        raise NotImplementedError

    def uncharge(self, cg: Cgroup) -> None:
        raise NotImplementedError

    def record(self, page: EpcPage, why: str) -> None:
        """Put a page on its LRU. `why`: add, load, eaug, modt (pages of enclaves), secs, va, vepc."""
        raise NotImplementedError

    def drop(self, page: EpcPage) -> None:
        """Take a page off its LRU if it is on one."""
        if page.list is not None:
            page.list.unlink(page)
        page.flags.clear()

    def can_reclaim(self) -> bool:
        """Does any LRU of the machine hold a reclaimable page."""
        return any(cg.lru for cg in self.root.descendants())

    def reclaim_pages_global(self, mm: Mm | None) -> None:
        """One round of reclaim over the whole machine, for an allocation, SGX2 ioctl or ksgxd."""
        raise NotImplementedError

    def reclaim_direct(self) -> None:
        """The pre-emptive reclaim of the SGX2 ioctls, once per page."""
        if self.should_reclaim_global(NR_LOW_PAGES):
            self.reclaim_pages_global(self.current.mm)

    def work_func(self, cg: Cgroup) -> None:
        """The queued reclaim work of a cgroup."""

    def max_written(self, cg: Cgroup) -> None:
        """misc.max of `cg` was stored."""

    def backing_memcg(self, encl: Enclave, mm: Mm | None) -> Cgroup:
        """The memory cgroup that pays for a backing page of `encl`."""
        raise NotImplementedError

    def css_released(self, cg: Cgroup) -> None:
        """`cg` is out of its parent's list of children."""

    def load_secs_before_eaug(self, encl: Enclave) -> None:
        """Linux c6c2adcba50c ("x86/sgx: Resolves SECS reclaim vs. page fault for EAUG race")."""
        self.load_secs(encl)

    # --- the schedule's rule 7: loops without progress ------------------------------------------------------

    def progress(self) -> None:
        self.ticks = 0

    def cond_resched(self) -> None:
        """Count a reschedule; 1000 without progress give a task a signal, and hang a kernel thread."""
        self.ticks += 1
        if self.ticks <= self.k_sig:
            return
        task = self.current
        if task.kthread or not task.killable or self.ticks > 2 * self.k_sig:
            raise Hang
        if not self.signal_injected:
            self.signal_injected = True
            task.signal_pending = True

    def warn_on(self, function: str) -> None:
        if function not in self.warn:
            self.warn.append(function)

    def run_deferred(self) -> None:
        """mmu-notifier frees first, then css releases in order; each may defer more."""
        while self.notifier_frees or self.css_releases:
            if self.notifier_frees:
                self.encl_put(self.notifier_frees.popleft())
            else:
                self.css_release(self.css_releases.popleft())

    def queue_work(self, cg: Cgroup) -> None:
        if cg not in self.works:
            self.works.append(cg)

    def run_works(self) -> None:
        before, self.current = self.current, self.kworker
        while self.works:
            self.ticks = 0
            self.work_func(self.works.popleft())
            self.run_deferred()
        self.current = before

    def run_ksgxd(self) -> None:
        """Until it would sleep: 64 pages free, or nothing left to reclaim."""
        before, self.current = self.current, self.ksgxd_task
        self.ksgxd_woken = False
        self.ticks = 0
        while self.should_reclaim_global(NR_HIGH_PAGES):
            self.reclaim_pages_global(None)
            self.cond_resched()
        self.run_deferred()
        self.current = before

    # --- cgroups --------------------------------------------------------------------------------------------

    def new_cgroup(self, name: str, parent: Cgroup | None) -> Cgroup:
        cg = Cgroup(name, parent, self.next_serial)
        self.next_serial += 1
        if parent is not None:
            parent.children.append(cg)
            parent.refs += 1
        return cg

    def find_cgroup(self, path: str) -> Cgroup:
        """The online cgroup at an absolute path, else ENOENT."""
        if not path.startswith("/"):
            raise Errno("ENOENT")
        cg = self.root
        for name in path.split("/"):
            if name:
                found = [child for child in cg.children if child.online and child.name == name]
                if not found:
                    raise Errno("ENOENT")
                cg = found[0]
        return cg

    def mkdir(self, path: str) -> None:
        if not path.startswith("/"):
            raise Errno("EINVAL")
        parent_path, _, name = path.rstrip("/").rpartition("/")
        if not name:
            raise Errno("EEXIST")
        parent = self.find_cgroup(parent_path + "/")
        if any(child.online and child.name == name for child in parent.children):
            raise Errno("EEXIST")
        self.new_cgroup(name, parent)

    def rmdir(self, path: str) -> None:
        if not path.startswith("/"):
            raise Errno("EINVAL")
        cg = self.find_cgroup(path)
        if cg is self.root or cg.tasks or any(child.online for child in cg.children):
            raise Errno("EBUSY")
        cg.online = False
        self.css_put(cg)

    def css_put(self, cg: Cgroup) -> None:
        cg.refs -= 1
        if cg.refs == 0:
            self.css_releases.append(cg)

    def css_release(self, cg: Cgroup) -> None:
        """No page, task or child is left: unlink the css, then free it."""
        assert cg.parent is not None
        cg.parent.children.remove(cg)
        self.css_released(cg)
        if cg in self.works:  # cancel_work_sync
            self.works.remove(cg)
        self.css_put(cg.parent)

    def move_task(self, task: Task, cg: Cgroup) -> None:
        """The task's cgroup changes; what it has charged does not."""
        cg.tasks += 1
        cg.refs += 1
        self.exit_cgroup(task)
        task.cgroup = cg

    def new_task(self, name: str, cg: Cgroup, node: int) -> Task:
        cg.tasks += 1
        cg.refs += 1
        return Task(name, cg, node)

    def exit_cgroup(self, task: Task) -> None:
        task.cgroup.tasks -= 1
        self.css_put(task.cgroup)

    def misc_try_charge(self, cg: Cgroup) -> bool:
        """Charge a page to `cg` and all its ancestors, or to none of them."""
        charged: list[Cgroup] = []
        for level in cg.ancestors():
            level.usage += PAGE
            charged.append(level)
            if self.over(level):
                self.misc_event(level)
                for each in charged:
                    self.misc_cancel_charge(each)
                return False
            level.peak = max(level.peak, level.usage)
        return True

    def over(self, cg: Cgroup) -> bool:
        return cg.usage > cg.max or cg.usage > self.capacity

    def misc_event(self, cg: Cgroup) -> None:
        """A charge was refused at this level. Mainline: the root never counts in `events`."""
        cg.events_local += 1
        for level in cg.ancestors():
            if level.parent is not None:
                level.events += 1

    def misc_cancel_charge(self, cg: Cgroup) -> None:
        cg.usage -= PAGE
        if cg.usage < 0:
            self.warn_on("misc_cg_cancel_charge")

    def misc_uncharge(self, cg: Cgroup) -> None:
        for level in cg.ancestors():
            self.misc_cancel_charge(level)

    # --- EPC pages ------------------------------------------------------------------------------------------

    def __alloc_epc_page(self) -> EpcPage | None:
        """The page that has been free longest: on the task's own node, else on the next node that has one."""
        nids = sorted(self.nodes)
        own = self.current.node
        if own in self.nodes:
            order = [nid for nid in nids if nid >= own] + [nid for nid in nids if nid < own]
        else:
            order = [nid for nid in nids if nid > own] + [nid for nid in nids if nid < own]
        for nid in order:
            free_list = self.nodes[nid].free_list
            if free_list:
                page = free_list.pop_head()
                page.free = False
                page.flags = set()
                self.nr_free_pages -= 1
                return page
        if own not in self.nodes:
            self.no_node_left()
        return None

    def no_node_left(self) -> None:
        """All nodes are empty and the task's own has no EPC: the walk up to Linux 6.12 waits for its own node
        for ever.
        """
        raise Hang

    def alloc_epc_page(self, owner: EnclPage | Enclave | Vepc, reclaim: bool) -> EpcPage:
        cg = self.current.cgroup
        self.charge(cg, reclaim)
        error = ""
        while (page := self.__alloc_epc_page()) is None:
            if not self.can_reclaim():
                error = "ENOMEM"
            elif not reclaim:
                error = "EBUSY"
            elif self.current.signal_pending:
                error = "ERESTARTSYS"
            if error:
                self.uncharge(cg)
                break
            self.reclaim_pages_global(self.current.mm)
            self.cond_resched()
        if page is not None:
            page.owner, page.cg = owner, cg
        if self.should_reclaim_global(NR_LOW_PAGES):
            self.ksgxd_woken = self.woke = True
        if page is None:
            raise Errno(error)
        return page

    def free_epc_page(self, page: EpcPage) -> None:
        """To the tail of its node's free list; a poisoned page to the head of the poison list, and counted
        free too.
        """
        if page.cg is not None:
            self.uncharge(page.cg)
            page.cg = None
        page.owner = None
        page.epcm = None
        page.flags = set()
        page.free = True
        if page.poison:
            page.node.poison_list.add_head(page)
        else:
            page.node.free_list.add_tail(page)
        self.nr_free_pages += 1

    def should_reclaim_global(self, watermark: int) -> bool:
        return self.nr_free_pages < watermark and self.can_reclaim()

    def memory_failure(self, section: int, index: int) -> None:
        if not (0 <= section < len(self.sections) and 0 <= index < len(self.sections[section])):
            raise Errno("EINVAL")
        page = self.sections[section][index]
        if page.poison:
            return
        page.poison = True
        if page.free:
            page.node.free_list.unlink(page)
            page.node.poison_list.add_head(page)

    # --- the CPU --------------------------------------------------------------------------------------------

    def count(self, name: str, n: int = 1) -> None:
        self.counters[name] += n

    def eremove(self, page: EpcPage) -> bool:
        """False: a SECS that still has children (SGX_CHILD_PRESENT)."""
        self.count("EREMOVE")
        epcm = page.epcm
        if epcm is None:
            return True
        if epcm.type == "secs" and epcm.children:
            self.count("encls_err")
            return False
        self.invalidate(page)
        self.progress()
        return True

    def invalidate(self, page: EpcPage) -> None:
        """The page's EPCM entry becomes invalid; its SECS has a child less."""
        epcm, page.epcm = page.epcm, None
        if epcm is not None and epcm.secs is not None and epcm.secs.epcm is not None:
            epcm.secs.epcm.children -= 1

    def validate(self, page: EpcPage, type_: str, secs: EpcPage | None = None) -> None:
        page.epcm = Epcm(type_, secs)
        if secs is not None:
            assert secs.epcm is not None
            secs.epcm.children += 1

    def secs_epcm(self, encl: Enclave) -> Epcm:
        """The CPU's record of the enclave; the kernel stumbles over a SECS that is not there."""
        if encl.secs.epc_page is None:
            raise Oops
        assert encl.secs.epc_page.epcm is not None
        return encl.secs.epc_page.epcm

    def eblock(self, page: EpcPage) -> None:
        self.count("EBLOCK")
        assert page.epcm is not None and page.epcm.secs is not None and page.epcm.secs.epcm is not None
        page.epcm.blocked_at = page.epcm.secs.epcm.epoch

    def etrack(self, encl: Enclave) -> None:
        self.count("ETRACK")
        self.secs_epcm(encl).epoch += 1

    def ipi(self, encl: Enclave) -> None:
        """Interrupt the enclave's CPUs: its threads leave."""
        self.count("IPI")
        secs = self.secs_epcm(encl)
        secs.ipi_epoch = secs.epoch

    def ewb_once(self, page: EpcPage) -> bool:
        """One EWB attempt. False: SGX_NOT_TRACKED, some thread may still hold the translation of a blocked
        page.
        """
        self.count("EWB")
        assert page.epcm is not None
        if page.epcm.type != "secs":
            assert page.epcm.secs is not None and page.epcm.secs.epcm is not None
            secs, blocked_at = page.epcm.secs.epcm, page.epcm.blocked_at
            assert blocked_at is not None, "EWB of a page that was not blocked"
            if secs.epoch <= blocked_at or (secs.running and secs.ipi_epoch <= blocked_at):
                self.count("EWB_NT")
                return False
        self.invalidate(page)
        self.progress()
        return True

    # --- backing store --------------------------------------------------------------------------------------

    def encl_alloc_backing(self, encl: Enclave, page_index: int, mm: Mm | None) -> None:
        """The shmem page of a page's contents and that of its PCMD record, allocated where missing."""
        for index in (page_index, encl.pcmd_index(page_index)):
            if index not in encl.backing:
                memcg = self.backing_memcg(encl, mm)
                memcg.backing += 1
                encl.backing[index] = memcg
                self.count("backing_alloc")

    def truncate_backing_page(self, encl: Enclave, index: int) -> None:
        encl.backing.pop(index).backing -= 1
        self.count("backing_free")

    # --- aging and writing out ------------------------------------------------------------------------------

    def reclaimer_age(self, page: EpcPage) -> bool:
        """True: old. Clears one accessed bit, in the newest mm that has it set; older mms keep theirs for the
        next scan.
        """
        encl_page = page.owner
        assert isinstance(encl_page, EnclPage)
        for mm in encl_page.encl.mm_list:
            if mm.pte.get(encl_page.page):
                mm.pte[encl_page.page] = False
                self.progress()
                return False
        return True

    def reclaimer_block(self, page: EpcPage) -> None:
        encl_page = page.owner
        assert isinstance(encl_page, EnclPage)
        self.zap_ptes(encl_page.encl, encl_page.page)
        self.eblock(page)

    def zap_ptes(self, encl: Enclave, page: int) -> None:
        for mm in encl.mm_list:
            mm.pte.pop(page, None)

    def reclaimer_write(self, page: EpcPage, mm: Mm | None) -> None:
        """Write a blocked page out; the SECS follows when it was the last child of an initialized enclave."""
        encl_page = page.owner
        assert isinstance(encl_page, EnclPage)
        encl = encl_page.encl
        self.encl_ewb(encl_page)
        encl_page.epc_page = None
        encl.secs_child_cnt -= 1
        if encl.secs_child_cnt == 0 and encl.initialized:
            secs_page = encl.secs.epc_page
            assert secs_page is not None
            self.encl_alloc_backing(encl, encl.size, mm)
            self.encl_ewb(encl.secs)
            self.encl_free_epc_page(secs_page)
            encl.secs.epc_page = None

    def encl_ewb(self, encl_page: EnclPage) -> None:
        """Version into the lowest free slot of the first VA page; ETRACK, then an IPI, if the CPU asks for
        them.
        """
        encl, page = encl_page.encl, encl_page.epc_page
        assert page is not None
        encl_page.being_reclaimed = False
        va_page = next(iter(encl.va_pages))
        slot = va_page.alloc_slot()
        if va_page.full():
            encl.va_pages.move_to_end(va_page)
        if encl_page.page < 0:
            encl_page.written = page.epcm
        if not self.ewb_once(page):
            self.etrack(encl)
            if not self.ewb_once(page):
                self.ipi(encl)
                self.ewb_once(page)
                assert page.epcm is None, "EWB after ETRACK and IPI"
        encl_page.va = (va_page, slot)
        index = encl.page_index(encl_page)
        encl.pcmd.setdefault(encl.pcmd_index(index), set()).add(index)
        self.ewb.append((f"{encl.id}:SECS" if encl_page.page < 0 else encl.id, encl_page.page))

    def encl_eldu(self, encl_page: EnclPage) -> None:
        """Load a page back. Its contents leave the backing store; so does the PCMD page once no record is
        left in it.
        """
        encl = encl_page.encl
        page = self.alloc_epc_page(encl_page, reclaim=False)
        assert encl_page.va is not None
        self.count("ELDU")
        self.progress()
        if encl_page.page < 0:
            page.epcm = encl_page.written
        else:
            self.validate(page, "reg", encl.secs.epc_page)
        index = encl.page_index(encl_page)
        pcmd_index = encl.pcmd_index(index)
        encl.pcmd[pcmd_index].discard(index)
        self.truncate_backing_page(encl, index)
        if not encl.pcmd[pcmd_index]:
            del encl.pcmd[pcmd_index]
            self.truncate_backing_page(encl, pcmd_index)
        va_page, slot = encl_page.va
        va_page.slots &= ~(1 << slot)
        encl.va_pages.move_to_end(va_page, last=False)
        encl_page.va = None
        encl_page.epc_page = page
        self.eldu.append((f"{encl.id}:SECS" if encl_page.page < 0 else encl.id, encl_page.page))

    def encl_free_epc_page(self, page: EpcPage) -> None:
        """EREMOVE and free; a page EREMOVE refuses is lost."""
        self.drop(page)
        if self.eremove(page):
            self.free_epc_page(page)
        else:
            self.warn_on("sgx_encl_free_epc_page")

    # --- enclaves -------------------------------------------------------------------------------------------

    def load_secs(self, encl: Enclave) -> None:
        if encl.secs.epc_page is None:
            self.encl_eldu(encl.secs)
            assert encl.secs.epc_page is not None
            self.record(encl.secs.epc_page, "secs")

    def load_page(self, encl: Enclave, page: int) -> EnclPage:
        """The page, made resident (its SECS first); EBUSY: try again; EFAULT: no such page."""
        encl_page = encl.page_array.get(page)
        if encl_page is None:
            raise Errno("EFAULT")
        if encl_page.epc_page is None:
            self.load_secs(encl)
            self.encl_eldu(encl_page)
            encl.secs_child_cnt += 1
            assert encl_page.epc_page is not None
            self.record(encl_page.epc_page, "load")
        elif encl_page.being_reclaimed:
            raise Errno("EBUSY")
        return encl_page

    def encl_grow(self, encl: Enclave, reclaim: bool) -> VaPage | None:
        """Account for one more page; every 512th brings a VA page, which the caller puts on the list."""
        va_page = None
        if encl.page_cnt % VA_SLOT_COUNT == 0:
            try:
                page = self.alloc_epc_page(encl, reclaim)
            except Errno:
                self.progress()  # kfree of the VA page record
                raise
            self.count("EPA")
            self.validate(page, "va")
            self.record(page, "va")
            va_page = VaPage(page)
        encl.page_cnt += 1
        return va_page

    def encl_shrink(self, encl: Enclave, va_page: VaPage | None) -> None:
        encl.page_cnt -= 1
        if va_page is not None:
            self.encl_free_epc_page(va_page.epc_page)
            encl.va_pages.pop(va_page, None)
            self.progress()

    def add_va_page(self, encl: Enclave, va_page: VaPage | None) -> None:
        if va_page is not None:
            encl.va_pages[va_page] = None
            encl.va_pages.move_to_end(va_page, last=False)

    def encl_create(self, encl: Enclave) -> None:
        """ENCLAVE_CREATE: the VA page first, then the SECS; all undone on failure."""
        va_page = self.encl_grow(encl, reclaim=True)
        self.add_va_page(encl, va_page)
        try:
            page = self.alloc_epc_page(encl.secs, reclaim=True)
        except Errno:
            self.encl_shrink(encl, va_page)
            raise
        self.count("ECREATE")
        if encl.size & (encl.size - 1):
            self.encl_free_epc_page(page)
            self.encl_shrink(encl, va_page)
            raise Errno("EIO")
        self.validate(page, "secs")
        encl.secs.epc_page = page
        self.record(page, "secs")
        encl.created = True

    def encl_add_page(self, encl: Enclave, page: int, measure: bool, type_: str) -> None:
        """One page of ADD_PAGES: the data page first, the VA page second."""
        try:
            epc_page = self.alloc_epc_page(encl_page := EnclPage(encl, page, type_), reclaim=True)
        except Errno:
            self.progress()  # kfree of the page record
            raise
        try:
            va_page = self.encl_grow(encl, reclaim=True)
        except Errno:
            self.encl_free_epc_page(epc_page)
            self.progress()
            raise
        self.add_va_page(encl, va_page)
        if page in encl.page_array:
            self.encl_shrink(encl, va_page)
            self.encl_free_epc_page(epc_page)
            self.progress()
            raise Errno("EBUSY")
        self.secs_epcm(encl)
        self.count("EADD")
        self.progress()
        self.validate(epc_page, "reg", encl.secs.epc_page)
        encl_page.epc_page = epc_page
        encl.page_array[page] = encl_page
        encl.secs_child_cnt += 1
        if measure:
            self.count("EEXTEND", 16)
        self.record(epc_page, "add")

    def encl_eaug_page(self, encl: Enclave, page: int) -> None:
        """A fault on an address without a page: add one, dynamically. It starts mapped and young."""
        if not encl.initialized:
            raise Errno("SIGBUS")
        try:
            self.load_secs_before_eaug(encl)
            epc_page = self.alloc_epc_page(encl_page := EnclPage(encl, page, "reg"), reclaim=False)
            va_page = self.eaug_grow(encl, epc_page)
        except Errno as error:
            self.progress()  # kfree of the page record
            raise Errno("EBUSY" if error.name == "EBUSY" else "SIGBUS") from None
        self.add_va_page(encl, va_page)
        self.secs_epcm(encl)
        self.count("EAUG")
        self.progress()
        self.validate(epc_page, "reg", encl.secs.epc_page)
        encl_page.epc_page = epc_page
        encl.page_array[page] = encl_page
        encl.secs_child_cnt += 1
        self.record(epc_page, "eaug")
        assert self.current.mm is not None
        self.current.mm.pte[page] = True

    def eaug_grow(self, encl: Enclave, epc_page: EpcPage) -> VaPage | None:
        """The VA page of a dynamic page, if one is due; refused, the page goes back."""
        try:
            return self.encl_grow(encl, reclaim=False)
        except Errno:
            self.encl_free_epc_page(epc_page)
            raise

    def vma_fault(self, task: Task, page: int) -> None:
        """A page fault of an enclave mapping. EBUSY: returns to user space, which faults again."""
        self.count("fault")
        encl = task.vma_encl
        if encl is None:
            raise Errno("SIGBUS")
        if self.sgx2 and page not in encl.page_array:
            self.encl_eaug_page(encl, page)
            return
        try:
            self.load_page(encl, page)
        except Errno as error:
            raise Errno("EBUSY" if error.name == "EBUSY" else "SIGBUS") from None
        assert task.mm is not None
        task.mm.pte[page] = False

    def encl_mm_add(self, encl: Enclave, mm: Mm) -> None:
        encl.mm_list.insert(0, mm)
        encl.refcount += 1

    def encl_put(self, encl: Enclave) -> None:
        encl.refcount -= 1
        if encl.refcount == 0 and not encl.oom:
            self.encl_release(encl)

    def encl_release(self, encl: Enclave) -> None:
        """Pages in address order, then the SECS, then VA pages from the list head, then the backing store."""
        for index in sorted(encl.page_array):
            encl_page = encl.page_array.pop(index)
            if encl_page.epc_page is not None:
                self.encl_free_epc_page(encl_page.epc_page)
                encl_page.epc_page = None
                encl.secs_child_cnt -= 1
            self.progress()
        if encl.secs_child_cnt == 0 and encl.secs.epc_page is not None:
            self.encl_free_epc_page(encl.secs.epc_page)
            encl.secs.epc_page = None
        while encl.va_pages:
            va_page, _ = encl.va_pages.popitem(last=False)
            self.encl_free_epc_page(va_page.epc_page)
            self.progress()
        for index in list(encl.backing):
            self.truncate_backing_page(encl, index)
        encl.pcmd.clear()

    def exit_process(self, task: Task) -> None:
        """The mm goes (its enclave reference only later), then the file, if no other process has it."""
        encl = task.encl
        assert encl is not None
        if task.mm is not None and task.mm in encl.mm_list:
            encl.mm_list.remove(task.mm)
            self.notifier_frees.append(encl)
        encl.processes.remove(task)
        if not encl.processes:
            self.encl_put(encl)
        self.exit_cgroup(task)

    def all_enclaves(self) -> list[Enclave]:
        """The open enclaves, by their oldest living process."""
        return list(dict.fromkeys(task.encl for task in self.tasks.values() if task.encl is not None))

    # --- SGX2 ioctls ----------------------------------------------------------------------------------------

    def sgx2_entry(self, encl: Enclave, page: int, count: int) -> None:
        if not self.sgx2:
            raise Errno("ENODEV")
        if not encl.initialized:
            raise Errno("EINVAL")
        self.check_range(encl, page, count)

    def check_range(self, encl: Enclave, page: int, count: int) -> None:
        if page < 0 or count <= 0 or page + count > encl.size:
            raise Errno("EINVAL")

    def sgx2_load(self, encl: Enclave, page: int) -> EnclPage:
        self.reclaim_direct()
        try:
            return self.load_page(encl, page)
        except Errno as error:
            raise Errno("EAGAIN" if error.name == "EBUSY" else "EFAULT") from None

    def encl_etrack(self, encl: Enclave) -> None:
        self.etrack(encl)
        self.ipi(encl)

    def restrict_permissions(self, encl: Enclave, page: int) -> None:
        encl_page = self.sgx2_load(encl, page)
        if encl_page.type != "reg":
            raise Errno("EINVAL")
        self.count("EMODPR")
        self.encl_etrack(encl)

    def modify_type(self, encl: Enclave, page: int, type_: str) -> None:
        encl_page = self.sgx2_load(encl, page)
        if encl_page.type != "reg" and not (encl_page.type == "tcs" and type_ == "trim"):
            raise Errno("EINVAL")
        assert encl_page.epc_page is not None
        if encl_page.type == "reg" and type_ == "tcs":
            self.drop(encl_page.epc_page)
            self.zap_ptes(encl, page)
            self.record(encl_page.epc_page, "modt")
        self.count("EMODT")
        encl_page.modified = True
        self.encl_etrack(encl)
        encl_page.type = type_

    def remove_page(self, encl: Enclave, page: int) -> None:
        encl_page = self.sgx2_load(encl, page)
        if encl_page.type != "trim":
            raise Errno("EPERM")
        self.count("EMODPR")  # page faults if the enclave has accepted, else SGX_PAGE_NOT_MODIFIABLE
        if encl_page.modified:
            self.count("encls_err")
            raise Errno("EPERM")
        assert encl_page.epc_page is not None
        self.drop(encl_page.epc_page)
        self.zap_ptes(encl, page)
        self.encl_free_epc_page(encl_page.epc_page)
        encl.secs_child_cnt -= 1
        del encl.page_array[page]
        self.encl_shrink(encl, None)
        self.progress()

    # --- virtual EPC ----------------------------------------------------------------------------------------

    def vepc_fault(self, vepc: Vepc, page: int) -> None:
        self.count("fault")
        assert vepc.task.mm is not None
        if page not in vepc.page_array:
            try:
                epc_page = self.alloc_epc_page(vepc, reclaim=False)
            except Errno as error:
                raise Errno("EBUSY" if error.name == "EBUSY" else "SIGBUS") from None
            vepc.page_array[page] = epc_page
            self.record(epc_page, "vepc")
        vepc.task.mm.pte[page] = False

    def vepc_free_page(self, page: EpcPage) -> bool:
        if not self.eremove(page):
            return False
        self.drop(page)
        self.free_epc_page(page)
        return True

    def vepc_remove_all(self, vepc: Vepc) -> int:
        failures = 0
        for index in sorted(vepc.page_array):
            failures += not self.eremove(vepc.page_array[index])
            self.cond_resched()
        return failures

    def vepc_release(self, vepc: Vepc) -> None:
        """Children first, then what could not be removed before, then the zombies of earlier releases."""
        for index in sorted(vepc.page_array):
            if self.vepc_free_page(vepc.page_array[index]):
                del vepc.page_array[index]
        still: list[EpcPage] = []
        for index in sorted(vepc.page_array):
            page = vepc.page_array.pop(index)
            if not self.vepc_free_page(page):
                self.drop(page)
                still.append(page)
        for page in list(self.zombie_secs_pages):
            self.zombie_secs_pages.unlink(page)
            if not self.vepc_free_page(page):
                still.append(page)
        for page in still:
            self.zombie_secs_pages.add_tail(page)

    # --- state ----------------------------------------------------------------------------------------------

    def state(self, summary: bool = False, full: bool = False) -> dict[str, Any]:
        """Everything an op log's `state` shows."""
        return {
            "nr_free": self.nr_free_pages,
            "nodes": [self.node_state(self.nodes[nid], full) for nid in sorted(self.nodes)],
            "cgroups": [self.cgroup_state(cg, summary) for cg in self.root.descendants()],
            "enclaves": {encl.id: self.enclave_state(encl, summary, full) for encl in self.all_enclaves()},
            "vepcs": {
                vepc.id: {"cgroup": vepc.task.cgroup.path(), "pages": ranges(vepc.page_array)}
                for vepc in self.vepcs.values()
            },
            "zombies": len(self.zombie_secs_pages),
            "ksgxd_woken": self.ksgxd_woken,
            "counters": dict(self.counters),
        }

    def node_state(self, node: Node, full: bool) -> dict[str, Any]:
        state: dict[str, Any] = {"node": node.nid}
        state["free"], state["poison"] = len(node.free_list), len(node.poison_list)
        if full:
            state["free_list"] = runs((str(page.section), page.index) for page in node.free_list)
        return state

    def cgroup_state(self, cg: Cgroup, summary: bool) -> dict[str, Any]:
        state: dict[str, Any] = {"path": cg.path(), "online": cg.online, "usage": cg.usage}
        state["max"] = "max" if cg.max == NO_LIMIT else cg.max
        state["events"] = cg.events
        state.update(self.series_state(cg, summary))
        state["pending"] = cg in self.works
        state["tasks"] = cg.tasks
        state["backing"] = cg.backing
        if cg is not self.root:
            state["refs"] = cg.refs
        return state

    def series_state(self, cg: Cgroup, summary: bool) -> dict[str, Any]:
        raise NotImplementedError

    def lru_state(self, name: str, lru: PageList, summary: bool) -> dict[str, Any]:
        state: dict[str, Any] = {f"n{name}": len(lru)}
        if not summary:
            state[name] = runs(self.page_name(page) for page in lru)
        return state

    def page_name(self, page: EpcPage) -> tuple[str, int]:
        owner = page.owner
        if isinstance(owner, EnclPage):
            return (f"{owner.encl.id}:SECS" if owner.page < 0 else owner.encl.id, owner.page)
        if isinstance(owner, Enclave):
            return (f"{owner.id}:VA", -1)
        assert isinstance(owner, Vepc)
        return (f"vepc:{owner.id}", next(index for index, its in owner.page_array.items() if its is page))

    def enclave_state(self, encl: Enclave, summary: bool, full: bool) -> dict[str, Any]:
        pages = sorted(encl.page_array.items())
        resident = {index: p.epc_page for index, p in pages if p.epc_page is not None}
        swapped = [index for index, p in pages if p.epc_page is None]
        state: dict[str, Any] = {
            "cgroup": encl.processes[0].cgroup.path(),
            "pages": len(encl.page_array),
            "nres": len(resident),
            "page_cnt": encl.page_cnt,
            "child": encl.secs_child_cnt,
            "secs": encl.secs.epc_page is not None,
            "ref": encl.refcount,
            "init": encl.initialized,
        }
        if self.series == "v2":
            state["oom"] = encl.oom
        state["va"] = [va_page.slots.bit_count() for va_page in encl.va_pages]
        state["backing"] = len(encl.backing)
        if summary:
            return state
        state["resident"] = ranges(resident)
        state["swapped"] = ranges(swapped)
        state["mms"] = [self.mm_state(task) for task in encl.processes]
        if full:
            state["place"] = [[index, page.section, page.index] for index, page in resident.items()]
        return state

    def mm_state(self, task: Task) -> dict[str, Any]:
        assert task.mm is not None
        pte = task.mm.pte
        young = [page for page, accessed in pte.items() if accessed]
        return {"id": task.name, "cgroup": task.cgroup.path(), "mapped": ranges(pte), "young": ranges(young)}


def runs(items: Iterable[tuple[str, int]]) -> list[list[Any]]:
    """[id, first, length] for neighbours of one id with ascending numbers."""
    out: list[list[Any]] = []
    for name, number in items:
        if out and out[-1][0] == name and out[-1][1] + out[-1][2] == number and number >= 0:
            out[-1][2] += 1
        else:
            out.append([name, number, 1])
    return out


def ranges(pages: Iterable[int]) -> list[list[int]]:
    """[first, last] of neighbouring numbers."""
    out: list[list[int]] = []
    for page in sorted(pages):
        if out and out[-1][1] + 1 == page:
            out[-1][1] = page
        else:
            out.append([page, page])
    return out


# ------------------------------------------------------------------------------ the batch of mainline and v17


class ArrayBatch(Machine):
    """Mainline's reclaim batch: an array of 16 pages of one list. Reclaimable pages only are on lists."""

    def record(self, page: EpcPage, why: str) -> None:
        if why not in ("secs", "va", "vepc"):
            self.lru_of(page).add_tail(page)

    def lru_of(self, page: EpcPage) -> PageList:
        raise NotImplementedError

    def reclaim_pages(self, lru: PageList, mm: Mm | None) -> int:
        """One batch: isolate up to 16, age, block the old ones, write them. Returns the number isolated."""
        isolated: list[EpcPage] = []
        for _ in range(NR_TO_SCAN):
            if not lru:
                break
            page = lru.pop_head()
            encl_page = page.owner
            assert isinstance(encl_page, EnclPage)
            if encl_page.encl.refcount:  # else the enclave is being destroyed
                isolated.append(page)
        old: list[EpcPage] = []
        for page in isolated:
            encl_page = page.owner
            assert isinstance(encl_page, EnclPage)
            if self.reclaimer_age(page):
                self.encl_alloc_backing(encl_page.encl, encl_page.page, mm)
                encl_page.being_reclaimed = True
                old.append(page)
            else:
                lru.add_tail(page)
        for page in old:
            self.reclaimer_block(page)
        for page in old:
            self.reclaimer_write(page, mm)
            self.free_epc_page(page)
        return len(isolated)

    def backing_memcg(self, encl: Enclave, mm: Mm | None) -> Cgroup:
        """That of the mm in whose context pages are reclaimed, else of the enclave's newest mm, else the
        root.
        """
        if mm is not None:
            return mm.task.cgroup
        return encl.mm_list[0].task.cgroup if encl.mm_list else self.root


# --------------------------------------------------------------------------------------------------- mainline


class Mainline(ArrayBatch):
    """Linux without the series: one LRU (shown as the root's), nothing is charged, misc knows no sgx_epc."""

    series = "mainline"
    resources = ("sev", "sev_es")

    def lru_of(self, page: EpcPage) -> PageList:
        return self.root.lru

    def charge(self, cg: Cgroup, reclaim: bool) -> None:
        pass

    def uncharge(self, cg: Cgroup) -> None:
        pass

    def no_node_left(self) -> None:
        """Fixed in Linux 6.12 ("x86/sgx: Fix deadlock in SGX NUMA node search"): the walk ends."""

    def memory_failure(self, section: int, index: int) -> None:
        """Since Linux 6.16 a poisoned page in use leaves the LRU, so that the reclaimer does not touch it."""
        super().memory_failure(section, index)
        page = self.sections[section][index]
        if not page.free:
            self.drop(page)

    def reclaim_pages_global(self, mm: Mm | None) -> None:
        self.reclaim_pages(self.root.lru, mm)

    def series_state(self, cg: Cgroup, summary: bool) -> dict[str, Any]:
        return self.lru_state("lru", cg.lru, summary)


# -------------------------------------------------------------------------------------------------------- v17


class V17(ArrayBatch):
    """The last posted version: one reclaimable list per cgroup, ENOMEM at once, a strict rotation over the
    subtree.
    """

    series = "v17"

    def lru_of(self, page: EpcPage) -> PageList:
        assert page.cg is not None
        return page.cg.lru

    def lru_empty(self, cg: Cgroup) -> bool:
        return not any(each.lru for each in cg.descendants())

    # charging

    def charge(self, cg: Cgroup, reclaim: bool) -> None:
        """Success never queues the work; a refused charge that may not reclaim does."""
        while not self.misc_try_charge(cg):
            if self.lru_empty(cg):
                raise Errno("ENOMEM")
            if self.current.signal_pending:
                raise Errno("ERESTARTSYS")
            if not reclaim:
                self.queue_work(cg)
                raise Errno("EBUSY")
            self.cgroup_reclaim_pages(cg, self.current.mm, 1)
            self.cond_resched()
        cg.refs += 1

    def uncharge(self, cg: Cgroup) -> None:
        self.misc_uncharge(cg)
        self.css_put(cg)

    # reclaim

    def should_reclaim(self, cg: Cgroup) -> bool:
        """Own usage against the smallest limit up to the root, less 32 pages when that is above 128."""
        if self.lru_empty(cg):
            return False
        limit = min(level.max_pages() for level in cg.ancestors())
        if limit > 128:
            limit -= NR_LOW_PAGES
        return cg.usage // PAGE >= limit

    def cgroup_reclaim_pages(self, root: Cgroup, mm: Mm | None, nr_to_scan: int) -> None:
        """Batches from one cgroup after the other, until at least `nr_to_scan` pages were isolated."""
        scanned = 0
        while scanned < nr_to_scan and not self.lru_empty(root):
            scanned += self.reclaim_pages(self.next_cgroup(root).lru, mm)

    def next_cgroup(self, root: Cgroup) -> Cgroup:
        """The cgroup whose turn it is; the turn passes on in pre-order, from the last one to the root."""
        while True:
            cg = root.next_cg
            root.next_cg = next_descendant_pre(cg, root) or root
            if cg is root or cg.refs:
                return cg

    def css_released(self, cg: Cgroup) -> None:
        for level in cg.ancestors():
            if level is not cg and level.next_cg is cg:
                level.next_cg = next_descendant_pre(cg, level) or level

    def reclaim_pages_global(self, mm: Mm | None) -> None:
        self.cgroup_reclaim_pages(self.root, mm, NR_TO_SCAN)

    def reclaim_direct(self) -> None:
        cg = self.current.cgroup
        if self.should_reclaim(cg):
            self.cgroup_reclaim_pages(cg, self.current.mm, NR_TO_SCAN)
        super().reclaim_direct()

    def work_func(self, cg: Cgroup) -> None:
        while self.should_reclaim(cg):
            self.cgroup_reclaim_pages(cg, None, NR_TO_SCAN)
            self.cond_resched()

    # state

    def series_state(self, cg: Cgroup, summary: bool) -> dict[str, Any]:
        return {
            "events_local": cg.events_local,
            "peak": cg.peak,
            **self.lru_state("lru", cg.lru, summary),
            "next": cg.next_cg.path(),
        }


# --------------------------------------------------------------------------------------------------------- v2

NR_TO_RECLAIM_MAX = 32  # pages that pass the age test in one call
RECLAIM_MIN_PAGES = 16
RECLAIM_MAX_PAGES = 64
IGNORE_AGE_THRESHOLD = 5
OOM_THRESHOLD = 5

# What each recording passes as page flags. EAUG and MODIFY_TYPES were not brought up to date: their pages
# lack ENCLAVE.
V2_FLAGS = {
    "add": {"TRACKED", "ENCLAVE"},
    "load": {"TRACKED", "ENCLAVE"},
    "eaug": {"TRACKED"},
    "modt": {"TRACKED"},
    "secs": {"ENCLAVE"},
    "va": {"VERSION_ARRAY"},
    "vepc": set[str](),
}


class ReclaimControl:
    """struct sgx_epc_reclaim_control: what a loop of reclaims remembers."""

    def __init__(self) -> None:
        self.nr_fails = 0
        self.nr_empty = 0
        self.ignore_age = False


class V2(Machine):
    """The seed series: an LRU pair per cgroup, thresholds before age is ignored or an enclave is killed, its
    defects kept.
    """

    series = "v2"

    # the misc controller of Linux 6.1

    def over(self, cg: Cgroup) -> bool:
        """Usage passes through a C int and is compared as an unsigned long: 2 GiB and below zero are over
        everything.
        """
        usage = (cg.usage + 2**31) % 2**32 - 2**31
        return usage % 2**64 > cg.max or usage % 2**64 > self.capacity

    def misc_event(self, cg: Cgroup) -> None:
        """6.1 counts the refusing level and every ancestor, the root too."""
        for level in cg.ancestors():
            level.events += 1

    # lists

    def record(self, page: EpcPage, why: str) -> None:
        assert page.cg is not None
        page.flags |= V2_FLAGS[why]
        (page.cg.lru if "TRACKED" in page.flags else page.cg.unreclaimable).add_tail(page)

    def backing_memcg(self, encl: Enclave, mm: Mm | None) -> Cgroup:
        """The current mm's; for ksgxd the enclave's newest mm's; else (kworker, a write to misc.max) the
        root.
        """
        if self.current is self.ksgxd_task and encl.mm_list:
            return encl.mm_list[0].task.cgroup
        return self.current.cgroup if self.current.mm is not None else self.root

    def load_secs_before_eaug(self, encl: Enclave) -> None:
        """Not yet fixed in the seed's base: EAUG finds a NULL SECS."""

    def eaug_grow(self, encl: Enclave, epc_page: EpcPage) -> VaPage | None:
        """A refused VA page is SIGBUS whatever the reason."""
        try:
            return super().eaug_grow(encl, epc_page)
        except Errno:
            raise Errno("SIGBUS") from None

    # charging

    def charge(self, cg: Cgroup, reclaim: bool) -> None:
        if cg is self.root:
            self.misc_try_charge(cg)  # its answer is ignored
            return
        rc = ReclaimControl()
        while not self.misc_try_charge(cg):
            limit, usage = cg.max_pages(), cg.usage // PAGE
            if limit < 1:
                raise Errno("ENOMEM")
            if self.current.signal_pending:
                raise Errno("ERESTARTSYS")
            if not reclaim:
                self.queue_work(cg)
                raise Errno("EBUSY")
            over = usage + 1 - limit if usage + 1 > limit else RECLAIM_MIN_PAGES
            if self.cgroup_reclaim_pages(cg, over, rc) == 0 and self.reclaim_failed(cg, rc):
                rc.nr_empty += 1
                if rc.nr_empty > OOM_THRESHOLD:
                    raise Errno("ENOMEM")
                self.cond_resched()
        cg.refs += 1

    def uncharge(self, cg: Cgroup) -> None:
        self.misc_uncharge(cg)
        if cg is not self.root:
            self.css_put(cg)

    # reclaim

    def cgroup_reclaim_pages(self, cg: Cgroup, nr_pages: int, rc: ReclaimControl) -> int:
        nr = min(max(nr_pages, RECLAIM_MIN_PAGES), RECLAIM_MAX_PAGES)
        return self.reclaim_epc_pages(nr, rc.ignore_age, cg)

    def reclaim_failed(self, cg: Cgroup, rc: ReclaimControl) -> bool:
        """Nothing was reclaimed. True: the subtree is empty; else age is ignored from the seventh time on."""
        if not any(each.lru for each in cg.descendants()):
            return True
        rc.nr_fails += 1
        if rc.nr_fails > IGNORE_AGE_THRESHOLD:
            rc.ignore_age = True
        return False

    def reclaim_epc_pages(self, nr_to_scan: int, ignore_age: bool, root: Cgroup) -> int:
        nr_reclaimed = self.__reclaim_epc_pages(nr_to_scan, ignore_age, root)
        self.cond_resched()
        return nr_reclaimed

    def __reclaim_epc_pages(self, nr_to_scan: int, ignore_age: bool, root: Cgroup) -> int:
        """One call: isolate from the subtree, age, block, write. Returns the number of pages written."""
        old: list[EpcPage] = []
        for page in self.isolate_pages(root, nr_to_scan):
            encl_page = page.owner
            assert isinstance(encl_page, EnclPage)
            if len(old) < NR_TO_RECLAIM_MAX and (ignore_age or self.reclaimer_age(page)):
                self.encl_alloc_backing(encl_page.encl, encl_page.page, None)
                encl_page.being_reclaimed = True
                old.append(page)
            else:
                assert page.cg is not None
                page.cg.lru.add_tail(page)
        for page in old:
            self.reclaimer_block(page)
        for page in old:
            self.reclaimer_write(page, None)
            self.free_epc_page(page)
        return len(old)

    def isolate_pages(self, root: Cgroup, nr_to_scan: int) -> list[EpcPage]:
        isolated: list[EpcPage] = []
        cg = self.iter_shared(root, first=True)
        while cg is not None:
            nr_to_scan = self.isolate_epc_pages(cg.lru, nr_to_scan, isolated)
            if nr_to_scan == 0:
                break
            cg = self.iter_shared(root, first=False)
        return isolated

    def isolate_epc_pages(self, lru: PageList, nr_to_scan: int, isolated: list[EpcPage]) -> int:
        """Take pages off one list. A page without ENCLAVE at its head stays there and eats up the scan
        (defect D1).
        """
        while nr_to_scan > 0 and lru:
            page = lru.head()
            nr_to_scan -= 1
            if "ENCLAVE" not in page.flags:
                self.warn_on("sgx_isolate_epc_pages")
                continue
            lru.unlink(page)
            encl_page = page.owner
            assert isinstance(encl_page, EnclPage)
            if encl_page.encl.refcount:
                isolated.append(page)
        return nr_to_scan

    def iter_shared(self, root: Cgroup, first: bool) -> Cgroup | None:
        """The cgroup after the one last visited from this root. Only the first step of a walk wraps around
        the end.
        """
        if root.reclaim_iter is not None and not root.reclaim_iter.refs:
            root.reclaim_iter = None
        pos = root.reclaim_iter
        while True:
            pos = next_descendant_pre(pos, root)
            if pos is None:
                root.epoch += 1
                if not first:
                    break
            elif pos is root or pos.refs:
                break
        root.reclaim_iter = pos
        return pos

    def css_released(self, cg: Cgroup) -> None:
        for level in cg.ancestors():
            if level is not cg and level.reclaim_iter is cg:
                level.reclaim_iter = None

    def reclaim_pages_global(self, mm: Mm | None) -> None:
        self.__reclaim_epc_pages(NR_TO_SCAN, False, self.root)

    def work_func(self, cg: Cgroup) -> None:
        """Down to one page below the cgroup's own limit, nine if that is above 64."""
        rc = ReclaimControl()
        while True:
            limit = cg.max_pages()
            if limit > 0:
                limit -= 1
            if limit > RECLAIM_MAX_PAGES:
                limit -= RECLAIM_MIN_PAGES // 2
            usage = cg.usage // PAGE
            if usage <= limit:
                return
            if self.cgroup_reclaim_pages(cg, usage - limit, rc) == 0 and self.reclaim_failed(cg, rc):
                return

    def max_written(self, cg: Cgroup) -> None:
        """Reclaim down to the new limit inside write(2); when nothing is left, kill enclaves."""
        rc = ReclaimControl()
        limit = cg.max_pages()
        while True:
            usage = cg.usage // PAGE
            if usage <= limit or self.current.signal_pending:
                return
            if self.cgroup_reclaim_pages(cg, usage - limit, rc) == 0 and self.reclaim_failed(cg, rc):
                rc.nr_empty += 1
                if rc.nr_empty > OOM_THRESHOLD:
                    self.cgroup_oom(cg)
                self.cond_resched()

    # out of memory

    def cgroup_oom(self, root: Cgroup) -> None:
        """One victim, from the first cgroup in pre-order that has one."""
        for cg in root.descendants():
            encl = self.oom_victim(cg.unreclaimable) if cg is root or cg.refs else None
            if encl is not None:
                self.oom_encl(encl)
                return

    def oom_victim(self, unreclaimable: PageList) -> Enclave | None:
        """The enclave of the oldest SECS or VA page. Pages looked at stay unlinked, virtual EPC too."""
        while unreclaimable:
            owner = unreclaimable.pop_head().owner
            encl = owner.encl if isinstance(owner, EnclPage) else owner
            if isinstance(encl, Enclave) and encl.refcount:
                encl.refcount += 1
                return encl
        return None

    def oom_encl(self, encl: Enclave) -> None:
        encl.oom = True
        if encl not in self.oom_killed:
            self.oom_killed.append(encl)
        for mm in encl.mm_list:
            mm.pte.clear()
        while encl.mm_list:
            encl.mm_list.pop(0)
            encl.refcount -= 1
            self.progress()
        self.encl_release(encl)
        self.encl_put(encl)

    # state

    def series_state(self, cg: Cgroup, summary: bool) -> dict[str, Any]:
        return {
            **self.lru_state("lru", cg.lru, summary),
            **self.lru_state("unrec", cg.unreclaimable, summary),
            "iter": cg.reclaim_iter.path() if cg.reclaim_iter is not None else None,
            "epoch": cg.epoch,
        }


SERIES: dict[str, type[Machine]] = {"mainline": Mainline, "v2": V2, "v17": V17}


# ---------------------------------------------------------------------------------------------------- op logs


Op = dict[str, Any]
Result = dict[str, Any]

REQUIRED = {  # fields without a default; a missing id is an unknown one
    "mkdir": ("path",),
    "rmdir": ("path",),
    "write": ("path", "file", "text"),
    "read": ("path", "file"),
    "enclave_create": ("id",),
    "fork": ("child",),
    "migrate": ("cgroup",),
    "vepc_open": ("id",),
    "vepc_migrate": ("cgroup",),
    "vepc_guest": ("page", "role"),
    "poison": ("section", "page"),
}


class Replayer:
    """A machine driven by an op log: `line` takes one line and gives the result it must print."""

    def __init__(self, series: str) -> None:
        self.make = SERIES[series]
        self.n = 0  # lines read
        self.m: Machine | None = None
        self.before: dict[str, int] = {}  # counters at the start of the operation
        self.dead = False
        self.auto_work = self.auto_ksgxd = False

    def line(self, text: str) -> dict[str, Any] | None:
        """The result of one line; None for an empty line or a comment."""
        self.n += 1
        if not text.strip() or text.startswith("#"):
            return None
        try:
            op = json.loads(text)
        except json.JSONDecodeError:
            op = None
        if not isinstance(op, dict):
            return {"n": self.n, "op": "", "ok": False, "errno": "EBADMSG"}
        name = str(op.get("op", ""))
        result: Result = {"n": self.n, "op": name}
        if self.dead:
            return {**result, "ok": False, "errno": "DEAD"}
        if name == "node" and self.m is None:
            return {**result, **self.op_node(op)}
        if self.m is None:
            return {**result, "ok": False, "errno": "ENODEV"}
        error = self.run(self.m, op, getattr(self, f"op_{name}", None), result)
        result["ok"] = error is None
        if error is not None:
            result["errno"] = error
        return {**result, **self.effects(self.m)}

    def run(self, m: Machine, op: Op, method: Callable[..., Any] | None, result: Result) -> str | None:
        """Run an operation and what the schedule runs after it; gives the name of its errno."""
        self.before = dict(m.counters)
        m.ewb, m.eldu, m.warn, m.oom_killed = [], [], [], []
        m.woke = m.signal_injected = False
        m.ticks = 0
        m.current = m.admin
        error: str | None = None
        try:
            try:
                if method is None:
                    raise Errno("EOPNOTSUPP")
                if op["op"] == "node" or any(field not in op for field in REQUIRED.get(op["op"], ())):
                    raise Errno("EINVAL")
                method(m, op, result)
            except Errno as failed:
                error = failed.name
            m.current.signal_pending = False
            self.background(m)
        except Fatal as fatal:
            self.dead = True
            return fatal.name
        return error

    def background(self, m: Machine) -> None:
        m.run_deferred()
        if self.auto_work:
            m.run_works()
        if self.auto_ksgxd and m.ksgxd_woken:
            m.run_ksgxd()

    def effects(self, m: Machine) -> dict[str, Any]:
        out: dict[str, Any] = {}
        changed = {name: m.counters[name] - self.before[name] for name in COUNTERS}
        changed = {name: value for name, value in changed.items() if value}
        if changed:
            out["d"] = changed
        if m.ewb:
            out["ewb"] = runs(m.ewb)
        if m.eldu:
            out["eldu"] = runs(m.eldu)
        if m.warn:
            out["warn"] = m.warn
        if m.woke:
            out["woke"] = True
        if m.signal_injected:
            out["signal_injected"] = True
        if m.works:
            out["pending"] = [cg.path() for cg in m.works]
        if m.oom_killed:
            out["oom"] = [encl.id for encl in m.all_enclaves() if encl in m.oom_killed]
        return out

    # --- machine and cgroups

    def op_node(self, op: Op) -> dict[str, Any]:
        """Boot: the one operation without a machine under it."""
        sections = op.get("sections", [])
        if not 1 <= len(sections) <= 8 or any(not 0 <= s["node"] <= 63 or s["pages"] < 1 for s in sections):
            return {"ok": False, "errno": "EINVAL"}
        self.m = self.make(sections, sgx2=op.get("sgx2", True), k_sig=op.get("k_sig", 1000))
        self.auto_work, self.auto_ksgxd = op.get("auto_work", False), op.get("auto_ksgxd", False)
        self.first_node = sections[0]["node"]
        return {"ok": True}

    def op_mkdir(self, m: Machine, op: Op, result: Result) -> None:
        m.mkdir(op["path"])

    def op_rmdir(self, m: Machine, op: Op, result: Result) -> None:
        m.rmdir(op["path"])

    def misc_files(self, m: Machine, cg: Cgroup) -> dict[str, str]:
        """The misc.* files of a cgroup and what each reads."""
        shown = "max" if cg.max == NO_LIMIT else str(cg.max)
        if "sgx_epc" not in m.resources:  # no resource: every file is there, and empty
            names = ["misc.current", "misc.peak"]
            names += ["misc.capacity"] if cg is m.root else ["misc.max", "misc.events", "misc.events.local"]
            return dict.fromkeys(names, "")
        files = {"misc.current": f"sgx_epc {cg.usage}\n"}
        if m.series == "v17":
            files["misc.peak"] = f"sgx_epc {cg.peak}\n"
        if cg is not m.root:
            files["misc.max"] = f"sgx_epc {shown}\n"
            files["misc.events"] = f"sgx_epc.max {cg.events}\n"
            if m.series == "v17":
                files["misc.events.local"] = f"sgx_epc.max {cg.events_local}\n"
            return files
        if m.series == "v2":
            del files["misc.current"]
        return {**files, "misc.capacity": f"sgx_epc {m.capacity}\n"}

    def op_write(self, m: Machine, op: Op, result: Result) -> None:
        cg = m.find_cgroup(op["path"])
        file = op["file"]
        if file not in self.misc_files(m, cg):
            raise Errno("ENOENT")
        if file != "misc.max":
            raise Errno("EACCES")
        m.admin.signal_pending = op.get("signal", False)
        cg.max = parse_max(op["text"], m.resources)
        m.max_written(cg)

    def op_read(self, m: Machine, op: Op, result: Result) -> None:
        files = self.misc_files(m, m.find_cgroup(op["path"]))
        if op["file"] not in files:
            raise Errno("ENOENT")
        result["text"] = files[op["file"]]

    # --- enclaves

    def task(self, m: Machine, op: Op) -> Task:
        """The process named by `id`, now the current task."""
        task = m.tasks.get(op.get("id", ""))
        if task is None:
            raise Errno("ENOENT")
        m.current = task
        task.signal_pending = op.get("signal", False)
        task.killable = True
        return task

    def encl(self, m: Machine, op: Op) -> Enclave:
        encl = self.task(m, op).encl
        assert encl is not None
        return encl

    def op_enclave_create(self, m: Machine, op: Op, result: Result) -> None:
        cg = m.find_cgroup(op.get("cgroup", "/"))
        if op["id"] in m.tasks:
            raise Errno("EEXIST")
        size, node = op.get("pages", 4096), op.get("node", self.first_node)
        if not 1 <= size <= 2**20 or not 0 <= node <= 63:
            raise Errno("EINVAL")
        task = m.new_task(op["id"], cg, node)
        task.mm = Mm(task)
        task.signal_pending = op.get("signal", False)
        m.current = task
        encl = Enclave(op["id"], size)
        try:
            m.encl_create(encl)
        except Errno:
            m.exit_cgroup(task)
            raise
        task.encl = task.vma_encl = encl
        encl.processes.append(task)
        m.encl_mm_add(encl, task.mm)
        m.tasks[op["id"]] = task

    def op_add_page(self, m: Machine, op: Op, result: Result) -> None:
        encl = self.encl(m, op)
        result["done"] = 0
        page, count, type_ = op.get("page", 0), op.get("count", 1), op.get("type", "reg")
        if encl.initialized or type_ not in ("reg", "tcs"):
            raise Errno("EINVAL")
        m.check_range(encl, page, count)
        for index in range(page, page + count):
            if m.current.signal_pending:
                if index == page:
                    raise Errno("ERESTARTSYS")
                return
            m.encl_add_page(encl, index, op.get("measure", False), type_)
            result["done"] += 1

    def op_init(self, m: Machine, op: Op, result: Result) -> None:
        encl = self.encl(m, op)
        if encl.initialized:
            raise Errno("EINVAL")
        m.secs_epcm(encl)
        m.count("EINIT")
        encl.initialized = True

    def op_touch(self, m: Machine, op: Op, result: Result) -> None:
        task = self.task(m, op)
        assert task.mm is not None and task.encl is not None
        self.each_page(m, op, result, task, task.encl.size, lambda page: m.vma_fault(task, page))

    def op_accept(self, m: Machine, op: Op, result: Result) -> None:
        task = self.task(m, op)
        encl = task.encl
        assert encl is not None

        def accepted(page: int) -> None:
            encl.page_array[page].modified = False

        self.each_page(m, op, result, task, encl.size, lambda page: m.vma_fault(task, page), accepted)

    def each_page(
        self,
        m: Machine,
        op: Op,
        result: Result,
        task: Task,
        size: int,
        fault: Callable[[int], None],
        then: Callable[[int], None] = lambda page: None,
    ) -> None:
        """Touch page after page, repeating a fault that says "try again" up to `retry` times each."""
        pages = op.get("pages")
        if pages is None:
            first, count, step = op.get("page", 0), op.get("count", 1), op.get("step", 1)
            pages = [first + step * i for i in range(count)]
        access, retry = op.get("access", True), op.get("retry", 0)
        result["done"] = 0
        retries = 0
        assert task.mm is not None
        pte = task.mm.pte
        try:
            for page in pages:
                if not 0 <= page < size:
                    raise Errno("SEGV")
                tries = 0
                while page not in pte:
                    try:
                        fault(page)
                    except Errno as error:
                        if error.name != "EBUSY" or tries >= retry:
                            raise
                        tries += 1
                        retries += 1
                        self.between_retries(m)
                if access:
                    pte[page] = True
                then(page)
                result["done"] += 1
        finally:
            if retries:
                result["retries"] = retries

    def between_retries(self, m: Machine) -> None:
        m.run_deferred()
        m.run_works()
        if m.ksgxd_woken:
            m.run_ksgxd()
        m.ticks = 0

    def sgx2_pages(self, m: Machine, op: Op, result: Result, do: Callable[[Enclave, int], None]) -> None:
        encl = self.encl(m, op)
        result["done"] = 0
        page, count = op.get("page", 0), op.get("count", 1)
        m.sgx2_entry(encl, page, count)
        for index in range(page, page + count):
            do(encl, index)
            result["done"] += 1

    def op_trim(self, m: Machine, op: Op, result: Result) -> None:
        self.sgx2_pages(m, op, result, lambda encl, page: m.modify_type(encl, page, "trim"))

    def op_tcs(self, m: Machine, op: Op, result: Result) -> None:
        self.sgx2_pages(m, op, result, lambda encl, page: m.modify_type(encl, page, "tcs"))

    def op_restrict(self, m: Machine, op: Op, result: Result) -> None:
        self.sgx2_pages(m, op, result, m.restrict_permissions)

    def op_remove(self, m: Machine, op: Op, result: Result) -> None:
        self.sgx2_pages(m, op, result, m.remove_page)

    def op_run(self, m: Machine, op: Op, result: Result) -> None:
        encl = self.encl(m, op)
        if encl.secs.epc_page is None:
            raise Errno("EAGAIN")
        m.secs_epcm(encl).running = op.get("on", True)

    def op_fork(self, m: Machine, op: Op, result: Result) -> None:
        parent = self.task(m, op)
        if op["child"] in m.tasks:
            raise Errno("EEXIST")
        encl = parent.encl
        assert encl is not None and parent.mm is not None
        child = m.new_task(op["child"], parent.cgroup, parent.node)
        child.encl = encl
        child.mm = Mm(child)
        child.mm.pte = dict.fromkeys(parent.mm.pte, False)
        encl.processes.append(child)
        if parent.vma_encl is not None and not encl.oom:
            child.vma_encl = encl
            m.encl_mm_add(encl, child.mm)
        m.tasks[op["child"]] = child

    def op_migrate(self, m: Machine, op: Op, result: Result) -> None:
        task = self.task(m, op)
        m.move_task(task, m.find_cgroup(op["cgroup"]))

    def op_close(self, m: Machine, op: Op, result: Result) -> None:
        task = self.task(m, op)
        task.killable = False
        del m.tasks[op["id"]]
        m.exit_process(task)

    # --- virtual EPC

    def vepc(self, m: Machine, op: Op, key: str = "id") -> Vepc:
        vepc = m.vepcs.get(op.get(key, ""))
        if vepc is None:
            raise Errno("ENOENT")
        return vepc

    def op_vepc_open(self, m: Machine, op: Op, result: Result) -> None:
        cg = m.find_cgroup(op.get("cgroup", "/"))
        if op["id"] in m.vepcs:
            raise Errno("EEXIST")
        size, node = op.get("pages", 1024), op.get("node", self.first_node)
        if not 1 <= size <= 2**20 or not 0 <= node <= 63:
            raise Errno("EINVAL")
        task = m.new_task(op["id"], cg, node)
        task.mm = Mm(task)
        m.vepcs[op["id"]] = Vepc(op["id"], size, task)

    def vepc_task(self, m: Machine, op: Op) -> Vepc:
        vepc = self.vepc(m, op)
        m.current = vepc.task
        vepc.task.signal_pending = op.get("signal", False)
        return vepc

    def op_vepc_fault(self, m: Machine, op: Op, result: Result) -> None:
        vepc = self.vepc_task(m, op)
        self.each_page(m, op, result, vepc.task, vepc.size, lambda page: m.vepc_fault(vepc, page))

    def op_vepc_close(self, m: Machine, op: Op, result: Result) -> None:
        vepc = self.vepc_task(m, op)
        vepc.task.killable = False
        m.vepc_release(vepc)
        del m.vepcs[vepc.id]
        m.exit_cgroup(vepc.task)

    def op_vepc_migrate(self, m: Machine, op: Op, result: Result) -> None:
        vepc = self.vepc_task(m, op)
        m.move_task(vepc.task, m.find_cgroup(op["cgroup"]))

    def op_vepc_remove_all(self, m: Machine, op: Op, result: Result) -> None:
        result["failures"] = m.vepc_remove_all(self.vepc_task(m, op))

    def op_vepc_guest(self, m: Machine, op: Op, result: Result) -> None:
        """What the guest made of a page changes the CPU's record only."""
        page = self.vepc(m, op).page_array.get(op["page"])
        if page is None:
            raise Errno("ENOENT")
        role = op["role"]
        secs: EpcPage | None = None
        if role == "child":
            secs = self.vepc(m, op, "secs_id").page_array.get(op["secs_page"])
            if secs is None or secs.epcm is None or secs.epcm.type != "secs":
                raise Errno("ENOENT")
        if role == "free":
            if page.epcm is not None and page.epcm.children:
                raise Errno("EBUSY")
            m.invalidate(page)
        elif role in ("secs", "child"):
            if page.epcm is not None:
                raise Errno("EBUSY")
            m.validate(page, "secs" if role == "secs" else "reg", secs)
        else:
            raise Errno("EINVAL")

    # --- background and the rest

    def op_poison(self, m: Machine, op: Op, result: Result) -> None:
        m.memory_failure(op["section"], op["page"])

    def op_ksgxd(self, m: Machine, op: Op, result: Result) -> None:
        if m.ksgxd_woken or not op.get("if_woken", False):
            m.run_ksgxd()

    def op_work(self, m: Machine, op: Op, result: Result) -> None:
        m.run_works()

    def op_state(self, m: Machine, op: Op, result: Result) -> None:
        result["state"] = m.state(op.get("summary", False), op.get("full", False))
