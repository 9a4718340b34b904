"""Every record of the ring: one record type per kernel struct, flat tables for what there are millions of.

State stands here, logic in functions. A field's text names its unit and meaning. Indices are row numbers, NIL
(-1) is none. An *encl_page* is a number in one space that all enclaves share (an enclave owns an aligned range;
its SECS is the page behind the last); a *frame* is an EPC page. Nothing is allocated after boot; machine.py may
grow tables between calls.
"""

import numpy as np

from epcgroup.units import PAGE_SIZE

NIL = -1
PAGE = PAGE_SIZE

# Series.
MAINLINE, V2, V17 = 0, 2, 17

# kernel/cgroup and arch/x86/kernel/cpu/sgx constants.
MAX_EPC_SECTIONS = 8
NR_TO_SCAN = 16  # pages taken off a list per batch
NR_LOW_PAGES = 32  # free pages under which an allocation wakes ksgxd
NR_HIGH_PAGES = 64  # free pages under which ksgxd keeps working
VA_SLOT_COUNT = 512  # version slots per version-array page
EEXTEND_PER_PAGE = 16
# v2 epc_cgroup.c
NR_TO_SCAN_MAX = 64
NR_TO_RECLAIM_MAX = 32
IGNORE_AGE_THRESHOLD = 5
OOM_THRESHOLD = 5
# v17 epc_cgroup.c: pages kept below a limit by background reclaim, as ksgxd keeps NR_LOW_PAGES free
V17_CREDIT = 32
MAX_UNLIMITED = (1 << 63) - 1  # misc.max "max"; larger written values act the same

# errno, negative inside the ring.
EIO, EAGAIN, ENOMEM, EFAULT, EBUSY, EINVAL, EPERM = 5, 11, 12, 14, 16, 22, 1
ERESTARTSYS = 512
# Not errno: what a fault or an op can end in besides.
SIGBUS, SEGV, OOPS, HANG = 1001, 1002, 1004, 1005

NO_RECLAIM, DO_RECLAIM = 0, 1

# Counters, in the order of the op log's "d"; those of COST_COUNTERS are for the cost model only.
# fmt: off
COUNTERS = [
    "ECREATE", "EADD", "EEXTEND", "EINIT", "EREMOVE", "EBLOCK", "ETRACK", "EWB", "EWB_NT", "ELDU", "EAUG", "EPA",
    "EMODT", "EMODPR", "IPI", "backing_alloc", "backing_free", "fault", "encls_err",
]
# fmt: on
COST_COUNTERS = ["age_scan", "refused", "eaccept", "ipi_cpu"]
ALL_COUNTERS = COUNTERS + COST_COUNTERS
NR_COUNTERS = len(ALL_COUNTERS)
(C_ECREATE, C_EADD, C_EEXTEND, C_EINIT, C_EREMOVE, C_EBLOCK, C_ETRACK, C_EWB, C_EWB_NT, C_ELDU, C_EAUG, C_EPA,
 C_EMODT, C_EMODPR, C_IPI, C_BACKING_ALLOC, C_BACKING_FREE, C_FAULT, C_ENCLS_ERR,
 C_AGE_SCAN, C_REFUSED, C_EACCEPT, C_IPI_CPU) = range(len(ALL_COUNTERS))

# state[encl_page]: one byte, the only thing a hit touches. PTE bits are those of the enclave's first mm.
P_MAPPED = 1  # PTE present
P_YOUNG = 2  # PTE accessed bit
P_RESIDENT = 4  # has an EPC page; where = frame, who = charged cgroup
P_KNOWN = 8  # the enclave has a record of the page; known and not resident: where = VA page, who = memory cgroup
P_STALE = 16  # older entries of the page stand in a list, see fifo.py
P_NOT_ENCLAVE = 32  # v2: recorded without the ENCLAVE bit (EAUG, MODIFY_TYPES)
P_UNTRACKED = 32  # mainline: resident, but taken off the list by a memory error
P_YOUNG_SHIFT = 1
P_NODE_SHIFT = 6  # without the ledger: row of nodes of its EPC page (at most 4)

# kind[encl_page]: type and EPCM bits of the rare pages; 0 is an ordinary REG page.
T_REG, T_TCS, T_TRIM = 0, 1, 2
T_MASK = 3
K_MODIFIED = 4  # EMODT done, not yet accepted by the enclave

# Enclave flags.
E_CREATED, E_INIT, E_OOM, E_RUNNING, E_PROVISION = 1, 2, 4, 8, 16

# Pinned EPC pages: those no reclaimer takes (v2: the unreclaimable list).
PIN_SECS, PIN_VA, PIN_VEPC = 1, 2, 3

# What a guest made of a page of its virtual EPC.
ROLE_FREE, ROLE_SECS, ROLE_CHILD = 0, 1, 2

# Tracepoints: (kind, encl or cgroup, page, count)
TP_EWB, TP_ELDU, TP_OOM, TP_AGE = 1, 2, 3, 4

# Operations: what the ring calls through the table k.ops, chosen at boot by the series.
OPERATIONS = [
    "try_charge",
    "reclaim_global",
    "reclaim_direct",
    "work",
    "alloc_epc_page",
    "reclaim_candidates",
    "encl_free_pages",
    "vma_fault",
]
(
    OP_TRY_CHARGE,
    OP_RECLAIM_GLOBAL,
    OP_RECLAIM_DIRECT,
    OP_WORK,
    OP_ALLOC,
    OP_RECLAIM,
    OP_FREE_PAGES,
    OP_FAULT,
) = range(len(OPERATIONS))

# Warnings (WARN_ON) in the kernel function's name; the machine keeps the order of first firing in an op.
WARNINGS = ["sgx_isolate_epc_pages", "misc_cg_cancel_charge", "sgx_encl_eldu"]
W_ISOLATE, W_CANCEL_CHARGE = 0, 1


def _record(*fields):
    """An aligned record type from (name, format, meaning) rows."""
    return np.dtype([(name, form) for name, form, _ in fields], align=True)


GLOBALS = _record(
    ("series", "i8", "MAINLINE, V2 or V17"),
    ("sgx2", "i8", "1: the CPU has EAUG, EMODT, EMODPR"),
    ("nr_frames", "i8", "EPC pages"),
    ("nr_free", "i8", "sgx_nr_free_pages; counts poisoned free pages too"),
    ("nr_poison", "i8", "poisoned EPC pages, free or not"),
    ("capacity", "i8", "bytes, misc.capacity"),
    ("nr_sections", "i8", ""),
    ("nr_nodes", "i8", "NUMA nodes with EPC"),
    ("ksgxd_woken", "i8", "flag"),
    ("woke", "i8", "1: somebody woke ksgxd since the machine last asked"),
    ("nr_lru", "i8", "reclaimable pages on all lists"),
    ("nr_cgroups", "i8", "rows of cgroups in use or once used"),
    ("serial", "i8", "serial of the next cgroup"),
    ("block_free", "i8", "first free block of slots"),
    ("block_brk", "i8", "first block never used"),
    ("pin_free", "i8", "first free row of pins"),
    ("pin_brk", "i8", "first row of pins never used"),
    ("nr_tombs", "i8", "stale list entries remembered in tombs"),
    ("nr_works", "i8", "queued cgroup reclaim works"),
    ("work_head", "i8", "cgroup whose work runs next"),
    ("work_tail", "i8", ""),
    ("dead_head", "i8", "first cgroup whose last reference is gone, not yet released"),
    ("dead_tail", "i8", ""),
    ("gone_head", "i8", "first enclave whose mm is gone, reference not yet dropped (mmu notifier)"),
    ("gone_tail", "i8", ""),
    ("zombie_head", "i8", "first SECS page of a closed virtual EPC that could not be removed"),
    ("nr_zombies", "i8", ""),
    ("ledger", "i8", "1: frames, VA slots and backing pages are kept a page (ledger.py)"),
    ("tracing", "i8", "1: write tracepoints; 2: those of cleared accessed bits too"),
    ("nr_trace", "i8", "tracepoints written since the machine drained them"),
    ("trace_size", "i8", "rows of trace"),
    ("trace_lost", "i8", "tracepoints that did not fit"),
    ("warned", "i8", "warnings of this op, four bits each, first in the lowest"),
    ("nr_warned", "i8", ""),
    ("task", "i8", "current task, NIL in a kernel thread or an administrator's write"),
    ("kthread", "i8", "1: ksgxd, 2: kworker, 0: neither"),
    ("work", "i8", "cgroup whose work the kworker does"),
    ("cgroup", "i8", "cgroup of current"),
    ("node", "i8", "slot of the NUMA node where allocation starts"),
    ("node_has_epc", "i8", "0: the task's own NUMA node has no EPC"),
    ("signal", "i8", "1: a signal is pending for current"),
    ("uninterruptible", "i8", "1: the op looks at no signal (process exit)"),
    ("signal_injected", "i8", "1: set because a loop could not make progress"),
    ("progress", "i8", "counts what changes the machine; loops watch it"),
    ("progress_seen", "i8", "value at the last reschedule"),
    ("patience", "i8", "reschedules without progress after which a loop is taken for endless"),
    ("idle_resched", "i8", "reschedules since the last progress"),
    ("fatal", "i8", "OOPS or HANG: the machine is dead"),
    ("status", "i8", "why the last batch stopped: 0 or a negative number"),
    ("batch", "i8", "number of the reclaim batch"),
    ("ignore_age", "i8", "v2: 1 while candidates are written however young they are"),
    ("retries", "i8", "fault repeats used by the last batch"),
    ("skip_credit", "i8", "touch batch: how much looking for runs of hits has paid lately"),
    ("mhz", "i8", "timed: cycles a microsecond, for the histogram of stalls"),
)

CGROUP = _record(
    ("parent", "i8", "cgroup, NIL for the root"),
    ("first_child", "i8", "children in creation order, dying ones included"),
    ("last_child", "i8", ""),
    ("next", "i8", "next sibling"),
    ("prev", "i8", "previous sibling"),
    ("serial", "i8", "root 1, then +1 per created cgroup"),
    ("online", "i8", "0: removed"),
    ("used", "i8", "1: the row is a cgroup"),
    ("tasks", "i8", "processes in it"),
    ("pages", "i8", "EPC pages that hold a reference"),
    ("children", "i8", "child csses, dying ones included"),
    ("dead", "i8", "1: last reference gone, on the release list"),
    ("usage", "i8", "bytes charged, descendants included"),
    ("other", "i8", "bytes charged to it by others than the EPC manager"),
    ("max", "i8", "misc.max in bytes, MAX_UNLIMITED for max"),
    ("events", "i8", "misc.events: refused charges here and below"),
    ("events_local", "i8", "misc.events.local (v17)"),
    ("peak", "i8", "misc.peak (v17)"),
    ("backing", "i8", "shmem pages charged to it as memory cgroup"),
    ("next_cg", "i8", "v17: where the next reclaim of this subtree starts"),
    ("iter", "i8", "v2: shared walk position, NIL: none"),
    ("epoch", "i8", "v2: generation of that walk"),
    ("pending", "i8", "1: reclaim work queued"),
    ("work_next", "i8", "next queued work"),
    ("dead_next", "i8", "next on the release list"),
    ("unrec_head", "i8", "v2: unreclaimable list, oldest first"),
    ("unrec_tail", "i8", ""),
    ("nr_unrec", "i8", ""),
)

FIFO = _record(
    ("head", "i8", "slot of the oldest entry"),
    ("tail", "i8", "slot behind the newest entry; a multiple of 16: no room"),
    ("len", "i8", "entries, stale ones included"),
    ("stale", "i8", "entries whose page has left the list"),
)

NODE = _record(
    ("id", "i8", "NUMA node number"),
    ("nr_frames", "i8", "EPC pages of the node"),
    ("nr_poison", "i8", "length of its poison list"),
)

SECTION = _record(
    ("node", "i8", "row of nodes"),
    ("first", "i8", "frame number of its first page"),
    ("nr_frames", "i8", ""),
)

ENCL = _record(
    ("used", "i8", "1: the row is an enclave"),
    ("start", "i8", "first encl_page, a multiple of 32"),
    ("length", "i8", "pages; encl_page start + length is the SECS"),
    ("flags", "i8", "E_*"),
    ("refs", "i8", "open file, registered mms"),
    ("nr_files", "i8", "processes that have the file open"),
    ("page_cnt", "i8", "the driver's count for VA pages"),
    ("nr_pages", "i8", "known pages"),
    ("nr_resident", "i8", "known pages with an EPC page"),
    ("child", "i8", "secs_child_cnt"),
    ("secs", "i8", "pin of the SECS, NIL: none or swapped out"),
    ("va_head", "i8", "version-array pages, first to be used first"),
    ("va_tail", "i8", ""),
    ("mm_head", "i8", "processes that map it, newest first"),
    ("nr_mms", "i8", ""),
    ("backing", "i8", "shmem pages of its backing store"),
    ("lru_cgroup", "i8", "cgroup whose list has its pages"),
    ("lru_many", "i8", "1: lists of several cgroups may have its pages"),
    ("cpus", "i8", "logical CPUs its threads run on, for the cost of an IPI"),
    ("tracked", "i8", "reclaim batch in which ETRACK was done"),
    ("task", "i8", "task that created it"),
    ("gone_next", "i8", "next on the mmu-notifier list"),
    ("gone", "i8", "references the mmu notifier still has to drop"),
    ("serial", "i8", "creation order"),
    ("nr_eldu", "i8", "regular pages loaded"),
    ("nr_ewb", "i8", "regular pages written out"),
    ("nr_ewb_others", "i8", "of those, written by another enclave's task, by ksgxd or by another cgroup's work"),
    ("nr_fault", "i8", "page faults"),
    ("nr_eaug", "i8", "dynamic pages added"),
)

MM = _record(
    ("used", "i8", ""),
    ("encl", "i8", ""),
    ("task", "i8", "task whose address space it is"),
    ("ptes", "i8", "offset of its PTE bytes in ptes; NIL: the first mm, whose PTE bits are in state"),
    ("next", "i8", "next mm of the enclave"),
    ("listed", "i8", "1: registered with the enclave"),
    ("detached", "i8", "1: its mapping has no enclave, every touch is SIGBUS"),
)

TASK = _record(
    ("used", "i8", ""),
    ("cgroup", "i8", ""),
    ("node", "i8", "row of nodes where allocation starts"),
    ("node_has_epc", "i8", ""),
    ("encl", "i8", "its enclave, NIL for a virtual EPC owner"),
    ("mm", "i8", ""),
    ("cycles", "i8", "timed: cycles its touches and faults have cost"),
    ("stall", "i8", "timed: the part of cycles spent in faults"),
    ("open", "i8", "timed: cycles of the fault that has not succeeded yet"),
    ("limit", "i8", "timed: stop when cycles reach this"),
    ("touch_cycles", "i8", "timed: cycles one touch computes, at least 1"),
)

PIN = _record(
    ("kind", "i4", "PIN_*; 0: free"),
    ("owner", "i4", "enclave, or virtual EPC"),
    ("index", "i4", "virtual EPC: page"),
    ("frame", "i4", "EPC page"),
    ("cgroup", "i4", "charged cgroup"),
    ("used", "i4", "VA: slots in use; guest SECS: children"),
    ("next", "i4", "list: v2 unreclaimable, zombies, free rows"),
    ("prev", "i4", ""),
    ("va_next", "i4", "VA: the enclave's list"),
    ("va_prev", "i4", ""),
    ("role", "i4", "guest page: ROLE_*"),
    ("secs", "i4", "guest child: pin of its SECS, NIL: none"),
    ("listed", "i4", "v2: 1 while on the unreclaimable list"),
)

VEPC = _record(
    ("used", "i8", ""),
    ("map", "i8", "offset of its page table in vmap"),
    ("length", "i8", "pages"),
    ("task", "i8", ""),
)

# Not aligned: six bytes an encl_page are what lets a machine of 1 TiB fit into 4 GiB.
PLACE = np.dtype(
    [
        ("where", np.uint32),  # resident: frame; swapped out: VA page
        ("who", np.uint16),  # resident: charged cgroup; swapped out: memory cgroup of the backing page
    ]
)

TOMB = _record(("page", "i8", "encl_page"), ("fifo", "i8", "list with a stale entry of it"))
TRACE = _record(("kind", "i8", "TP_*"), ("a", "i8", "enclave"), ("b", "i8", "encl_page"), ("n", "i8", "pages"))

TABLES = [
    ("g", GLOBALS),
    ("cgroups", CGROUP),
    ("fifos", FIFO),  # NUMA free lists (rows 0..7: frames), then the reclaimable list of each cgroup (encl_pages)
    ("slots", np.uint32),  # blocks of 16 entries that the fifos are made of
    ("block_next", np.uint32),
    ("tombs", TOMB),
    ("nodes", NODE),
    ("sections", SECTION),
    ("poison", np.uint8),  # one bit a frame
    ("encls", ENCL),
    ("mms", MM),
    ("tasks", TASK),
    ("pins", PIN),
    ("vepcs", VEPC),
    ("state", np.uint8),  # per encl_page: P_*
    ("kind", np.uint8),  # per encl_page: T_* and K_*
    ("place", PLACE),  # per encl_page
    ("pcmd", np.uint8),  # per 32 encl_pages: pages with paging metadata
    ("pcmd_who", np.uint16),  # memory cgroup of that metadata page
    ("encl_of", np.int32),  # per 32 encl_pages: enclave
    ("ptes", np.uint8),  # PTE bytes of forked processes
    ("vmap", np.int32),  # pin + 1 of each virtual EPC page
    ("scan", np.uint32),  # reclaim candidates
    ("counters", np.int64),
    ("costs", np.int64),  # cycles of each counter
    ("stalls", np.int64),  # per task STALL_BUCKETS: histogram of fault durations
    ("trace", TRACE),
    ("ops", np.int64),  # addresses of the operations
]
SCALARS = {"g"}
FIRST_CGROUP_FIFO = MAX_EPC_SECTIONS
NR_TOMBS = 256
