"""One node in simulated time: pods, the CPUs they share, ksgxd and the cgroup works beside them.

Time is counted in cycles. Every logical CPU runs one thread at a time, in slices, the thread that has waited
longest first; what a thread does in a slice is one ring call and happens at the slice's start. A refused fault ends
the slice: from then on the thread spins on its CPU, as a processor that repeats a fault does, and tries again when a
kernel thread may have made room. kworkers and ksgxd are threads of the node; a slice of theirs is a batch of 16
pages, or several short ones. Approximated: everything shorter than a slice (SLICE_SECONDS); repeats of a fault
between which nothing happened are not counted one by one; kernel threads have no priority; a CPU's speed does not
depend on what its neighbours do.
"""

import errno
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from epcgroup.errors import MachineError
from epcgroup.machine import Machine, MachineDead, Section
from epcgroup.sim.cost import CostProfile
from epcgroup.sim.plan import (
    ContainerPlan,
    LimitChange,
    NodePlan,
    PodPlan,
    enclave_name,
    heap_pages,
    start_threads,
)
from epcgroup.sim.workload import Workload
from epcgroup.trace import STALL_BUCKETS, Event, PodRun, Run
from epcgroup.units import PAGE_SIZE, format_bytes

SLICE_SECONDS = 100e-6  # of a thread that pages
LONG_SLICE_SECONDS = 1e-3  # of one that took no fault in its last slice
SPIN_SECONDS = 20e-6  # of one whose fault has been refused: a page or two, then it is the next one's turn
MAX_BACKOFF = 3  # doublings of the time between two repeats of a fault that nobody makes room for
TOUCHES_AT_ONCE = 1 << 14  # asked of a workload
RELEASED_AT_ONCE = 64  # pages that an enclave gives back in a slice
SAMPLES = 200  # per run
MAX_EVENTS = 200

Progress = Callable[[float], None]  # called with the share of the run that is done


def fault_cycles(costs: CostProfile) -> int:
    """One page fault without what it does about the page."""
    return round(costs.cycles("aex_eresume") + costs.cycles("fault_path") + costs.cycles("tlb_refill"))


def ring_costs(costs: CostProfile) -> dict[str, int]:
    """Cycles of each operation the ring counts.

    A fault stands with what it leads to: ELDU, EAUG, and for the first touch of an added page EADD. A refused one costs
    nothing here, which makes a slice end there; the node adds it, and EREMOVE, which a refused EAUG may contain. EWB
    counts attempts; a refused one (EWB_NT) costs as EBLOCK does.
    """
    c, fault = costs.cycles, fault_cycles(costs)
    weights = {
        "ECREATE": c("ecreate"),
        "EADD": c("eadd") + fault,
        "EEXTEND": c("eextend"),
        "EINIT": c("einit"),
        "EBLOCK": c("eblock"),
        "ETRACK": c("etrack"),
        "EWB": c("ewb"),
        "EWB_NT": c("eblock") - c("ewb"),
        "ELDU": c("eldu") + fault,
        "EAUG": c("eaug") + c("eaccept") + fault,
        "EPA": c("epa"),
        "EMODT": c("emodt") + c("eaccept"),
        "EMODPR": c("emodpr"),
        "age_scan": c("age_scan"),
        "ipi_cpu": c("ipi_per_cpu"),
    }
    return {name: round(cycles) for name, cycles in weights.items()}


@dataclass
class _Enclave:
    """One enclave (or virtual EPC) of a container, with what it has done."""

    id: str
    pod: "_Pod"
    container: ContainerPlan
    heap: int  # pages
    size: int  # pages of the enclave, a power of two
    added: int = 0
    threads: list["_Thread"] = field(default_factory=list)
    ready: bool = False
    alive: bool = True
    totals: dict[str, int] = field(default_factory=dict)  # of a closed enclave


@dataclass(eq=False)
class _Thread:
    """Something that wants a CPU from `ready` on."""

    name: str
    ready: int = 0
    enclave: _Enclave | None = None  # None: a kernel thread
    work: int = -1  # kworker: cgroup row
    row: int = -1  # ring task
    workload: Workload | None = None
    pages: np.ndarray | None = None
    address: int = 0  # of pages
    at: int = 0  # next touch in pages
    touch_cycles: int = 1
    idle: int = 0  # cycles to sleep after the batch
    release: tuple[int, int] | None = None
    calm: bool = False  # took no fault in its last slice
    refusals: int = 0  # of the fault it is repeating
    touches: int = 0
    busy: int = 0
    stall: int = 0
    build: int = 0
    wait: int = 0


@dataclass
class _Pod:
    plan: PodPlan
    record: PodRun
    enclaves: list[_Enclave] = field(default_factory=list)
    stalls: np.ndarray = field(default_factory=lambda: np.zeros(STALL_BUCKETS, np.int64))
    hit: int = 0  # max events already reported
    capped: bool = False  # a cgroup above the pod has a limit
    refused_own: int = 0  # misc.events of the pod when it was last looked at
    refused_above: int = 0  # faults refused by that limit, which misc.events of the pod does not count


class NodeSimulation:
    """Runs pods on one node; `run` fills and returns the record, also after KeyboardInterrupt."""

    def __init__(
        self,
        node: NodePlan,
        pods: tuple[PodPlan, ...],
        record: Run,
        limits: dict[str, int],
        changes: tuple[LimitChange, ...] = (),
    ) -> None:
        self.node, self.run_record, self.limits = node, record, limits
        self.hz = node.costs.cpu_hz
        sections = [Section(s.node, s.size_bytes // PAGE_SIZE) for s in node.sections]
        heap = sum(heap_pages(c.use_bytes) for p in pods for c in p.containers)
        series = record.series
        assert series in ("mainline", "v2", "v17")
        self.m = Machine(sections, series, sgx2=node.sgx2, ledger=False, enclave_pages=2 * heap)  # type: ignore[arg-type]
        self.m.set_costs(ring_costs(node.costs), max(1, round(self.hz / 1e6)))
        self.wakeup = round(node.costs.cycles("wakeup"))
        self.ioctl, self.eremove = round(node.costs.cycles("ioctl")), round(node.costs.cycles("eremove"))
        self.fault = fault_cycles(node.costs)
        self.refused = self.fault + round(node.costs.cycles("refused_charge"))
        self.page_build = round(node.costs.cycles("eadd") + 16 * node.costs.cycles("eextend")) + 1
        self.end = self._cycles(record.duration)
        self.short_slice, self.long_slice = self._cycles(SLICE_SECONDS), self._cycles(LONG_SLICE_SECONDS)
        self.spin = self._cycles(SPIN_SECONDS)
        self.heap: list[tuple[int, int, _Thread]] = []  # ready threads, longest waiting first
        self.seq = 0
        self.cpus = [0] * node.cpus  # when each is free
        self.ksgxd_awake = False
        self.works: dict[int, bool] = {}  # cgroup row -> queued again while its work runs
        self.stirred = True  # the slice may have woken a kernel thread
        self.kernel_due: list[int] = []  # when kernel threads want to run, soonest first; past ones are dropped late
        self.timers: list[tuple[int, int, Callable[[int], None]]] = []
        self.pods = [self._pod(plan) for plan in pods]
        for change in changes:
            self._at(self._cycles(change.at), lambda now, c=change: self._change_limit(now, c))  # type: ignore[misc]
        for i in range(SAMPLES + 1):
            self._at(self.end * i // SAMPLES, self._sample)

    # ---- setting up ---------------------------------------------------------------------------------

    def _cycles(self, seconds: float) -> int:
        return round(seconds * self.hz)

    def _seconds(self, cycles: int) -> float:
        return cycles / self.hz

    def _at(self, when: int, what: Callable[[int], None]) -> None:
        self.seq += 1
        heapq.heappush(self.timers, (when, self.seq, what))

    def _mkdir(self, path: str) -> None:
        parent = ""
        for part in path.strip("/").split("/"):
            parent += "/" + part
            if parent not in self.m.cgroups:
                self.m.mkdir(parent)
                if parent in self.limits and self.m.series != "mainline":
                    self.m.set_limit(parent, self.limits[parent])

    def _pod(self, plan: PodPlan) -> _Pod:
        self._mkdir(plan.path)
        limit = self.limits.get(plan.path)
        own = [self.limits[p] for p in map(plan.container_path, plan.containers) if p in self.limits]
        if len(own) == len(plan.containers) and own:
            limit = min(sum(own), limit) if limit is not None else sum(own)
        record = PodRun(plan.name, plan.path, plan.claim_bytes, limit, plan.use_bytes, plan.describe())
        pod = _Pod(plan, record)
        pod.capped = any(plan.path.startswith(f"{path}/") for path in self.limits)
        for c in plan.containers:
            path = plan.container_path(c)
            self._mkdir(path)
            pod.enclaves += [self._enclave(pod, c, i) for i in range(c.enclaves)]
        if plan.start < self.run_record.duration:
            self._at(self._cycles(plan.start), lambda now: self._start(now, pod))
        if plan.stop is not None and plan.stop < self.run_record.duration:
            self._at(self._cycles(plan.stop), lambda now: self._stop(now, pod))
        return pod

    def _enclave(self, pod: _Pod, c: ContainerPlan, index: int) -> _Enclave:
        footprint = c.use_bytes // c.enclaves
        heap = footprint // PAGE_SIZE if c.vepc else heap_pages(footprint)
        size = 1 << max(heap - 1, 0).bit_length()
        name = enclave_name(pod.plan.name, c, index)
        enclave = _Enclave(name, pod, c, max(heap, 1), max(size, 2))
        enclave.threads = [_Thread(f"{name}.{number}", enclave=enclave) for number in range(c.threads)]
        if not c.vepc:
            for thread, workload in zip(enclave.threads, start_threads(c, name, self.run_record.seed), strict=True):
                thread.workload = workload
        return enclave

    # ---- the loop -----------------------------------------------------------------------------------

    def run(self, progress: Progress | None = None) -> Run:
        """Simulate to the end, or until interrupted or dead; the record has what was simulated until then."""
        now = 0
        try:
            while True:
                now = self._next_time()
                if now >= self.end:
                    break
                if self.timers and self.timers[0][0] <= now:
                    when, _, what = heapq.heappop(self.timers)
                    now = when
                    what(when)
                    if progress is not None:
                        progress(when / self.end)
                    continue
                if not self.heap:
                    break
                self._slice(now)
            now = self.end
            while self.timers and self.timers[0][0] <= self.end:
                when, _, what = heapq.heappop(self.timers)
                what(when)
        except KeyboardInterrupt:
            self._cut_short(now, f"interrupted at {self._seconds(now):.3g} s of {self.run_record.duration:g} s")
        except MachineDead as death:
            cause = {"OOPS": "crashed (OOPS)", "HANG": "hung"}[death.cause]
            self._cut_short(now, f"a kernel of this series would have {cause} at {self._seconds(now):.3g} s")
        self._finish(now)
        return self.run_record

    def _next_time(self) -> int:
        """When the next thing happens: a timer, or the thread that has waited longest gets the first free CPU."""
        times = [self.timers[0][0]] if self.timers else []
        if self.heap:
            times.append(max(self.heap[0][0], self.cpus[0]))
        return min(times, default=self.end)

    def _cut_short(self, now: int, why: str) -> None:
        self._event(now, "", why)
        self.run_record.ended_early = why
        self.run_record.duration = self._seconds(now)
        if not self.run_record.times or self.run_record.times[-1] < self._seconds(now):
            self._sample(now)

    def _make_ready(self, thread: _Thread, when: int) -> None:
        thread.ready = when
        self.seq += 1
        heapq.heappush(self.heap, (when, self.seq, thread))

    def _make_kernel_ready(self, thread: _Thread, when: int) -> None:
        self._make_ready(thread, when)
        heapq.heappush(self.kernel_due, when)

    def _slice(self, now: int) -> None:
        """The thread that has waited longest runs on the CPU that is free first."""
        ready, _, thread = heapq.heappop(self.heap)
        enclave = thread.enclave
        self.stirred = True
        if enclave is None:
            used = self._kernel_thread(thread, now)
        elif not enclave.alive:
            return
        else:
            thread.wait += now - ready
            if not enclave.ready:
                used = self._build(thread, enclave, now)
            else:
                if thread.refusals and now > ready:
                    self.m.add_to_stall(thread.row, now - ready)
                used = self._compute(thread, enclave, now)
        heapq.heapreplace(self.cpus, now + used)
        if self.stirred:
            self._wake(now + used)

    def _wake(self, when: int) -> None:
        """ksgxd and kworkers that something in the last slice has woken."""
        ksgxd, works = self.m.woken()
        if ksgxd and not self.ksgxd_awake:
            self.ksgxd_awake = True
            self._event(when, "", "ksgxd woken: fewer than 32 EPC pages free")
            self._make_kernel_ready(_Thread("ksgxd"), when + self.wakeup)
        while works and (row := self.m.next_work()) is not None:
            if row in self.works:
                self.works[row] = True
            else:
                self.works[row] = False
                self._make_kernel_ready(_Thread("kworker", work=row), when + self.wakeup)

    def _kernel_thread(self, thread: _Thread, now: int) -> int:
        """Batches of ksgxd or of a kworker until a slice is over. One that finds work but none that can be done (v2's
        may, as long as it is woken) looks again and again, and keeps its CPU."""
        m, before, used, done = self.m, self.m.spent(), 0, False
        while not done and used < self.spin:
            done = m.ksgxd(1) if thread.work < 0 else m.work_batch(thread.work)
            spent = m.spent() - before
            used = spent if spent > used else max(self.wakeup if done else self.short_slice, used)
        if thread.work < 0:
            self.run_record.ksgxd_seconds += self._seconds(used)
            if done:
                self.ksgxd_awake = False
                return used
        else:
            self.run_record.kworker_seconds += self._seconds(used)
            if done and not self.works[thread.work]:
                del self.works[thread.work]
                return used
            if done:
                self.works[thread.work] = False
        self._make_kernel_ready(thread, now + used)
        return used

    # ---- applications -------------------------------------------------------------------------------

    def _start(self, now: int, pod: _Pod) -> None:
        for enclave in pod.enclaves:
            self._make_ready(enclave.threads[0], now)

    def _stop(self, now: int, pod: _Pod) -> None:
        if any(e.alive for e in pod.enclaves):
            self._end_pod(now, pod, f"finished at {self._seconds(now):.3g} s")

    def _build(self, thread: _Thread, enclave: _Enclave, now: int) -> int:
        """A part of CREATE, ADD_PAGES with EEXTEND, INIT; or of a guest's first touch of its virtual EPC."""
        m, c = self.m, enclave.container
        before = m.spent()
        path = enclave.pod.plan.container_path(c)
        refused, faults = None, 0
        try:
            if thread.row < 0:
                if c.vepc:
                    m.vepc_open(enclave.id, path, enclave.heap, enclave.pod.plan.numa)
                else:
                    m.enclave_create(enclave.id, path, enclave.size, enclave.pod.plan.numa)
                thread.row = m.task_row(enclave.id)
            wanted = min(enclave.heap, 16) if c.edmm else enclave.heap
            n = min(wanted - enclave.added, max(1, self.long_slice // self.page_build))
            if n > 0:
                if c.vepc:
                    n = min(wanted - enclave.added, 64)
                    batch = m.vepc_fault(enclave.id, range(enclave.added, enclave.added + n))
                else:
                    batch = m.add_pages(enclave.id, enclave.added, n, measure=True)
                enclave.added += batch.done
                if c.vepc:
                    faults = batch.done * self.fault + (self.refused if batch.stop == "EBUSY" else 0)
                if batch.stop not in (None, "EBUSY"):
                    refused = batch.stop
            if enclave.added >= wanted and refused is None:
                self._built(enclave, now)
        except MachineError as error:
            assert error.errno is not None
            refused = errno.errorcode.get(error.errno, str(error.errno))
        used = m.spent() - before + faults + self.ioctl
        thread.build += used
        if refused is not None:
            what = "its guest was refused EPC" if c.vepc else "creation refused"
            self._end_pod(now + used, enclave.pod, f"{what}: {refused}")
        elif enclave.ready:
            for each in enclave.threads:
                if each.workload is not None:
                    self._make_ready(each, now + used)
        else:
            self._make_ready(thread, now + used)
        return used

    def _built(self, enclave: _Enclave, now: int) -> None:
        m = self.m
        enclave.ready = True
        if enclave.container.vepc:
            enclave.totals["guest"] = enclave.added  # its pages stay: nothing the host does depends on its touches
            return
        m.init(enclave.id)
        m.run(enclave.id, cpus=min(len(enclave.threads), self.node.cpus))
        for thread in enclave.threads[1:]:
            thread.row = m.add_thread(enclave.id)

    def _compute(self, thread: _Thread, enclave: _Enclave, now: int) -> int:
        """A slice of touching pages."""
        if thread.pages is None:
            self._next_batch(thread)
        pages = thread.pages
        assert pages is not None
        used = 0
        if thread.refusals and not self.m.free_pages:
            self.stirred = False
            used = self._spin(thread, now)  # without a free page the fault cannot but be refused again
        elif thread.at < len(pages):
            length = self.spin if thread.refusals else self.long_slice if thread.calm else self.short_slice
            length = min(length, self.end - now)
            n = min(len(pages) - thread.at, length // thread.touch_cycles + 1)  # no more fit; the ring looks at all
            s = self.m.slice(thread.row, thread.address + 4 * thread.at, n, length, thread.touch_cycles)
            used = s.cycles
            thread.at += s.done
            thread.touches += s.done
            thread.busy += s.done * thread.touch_cycles
            thread.stall += s.stall
            thread.calm = not s.stall
            self.stirred = s.stall > 0 or s.stop is not None
            if s.done or s.stop is None:
                thread.refusals = 0
            if s.stop == "EBUSY":
                used += self._spin(thread, now + used)
                if enclave.pod.capped:
                    self._refused_above(enclave.pod)
            elif s.stop is not None:
                self._end_pod(now + used, enclave.pod, self._why(s.stop, enclave, now + used))
                return used
        sleep = 0
        if thread.at == len(pages):
            if thread.release is not None:
                self.stirred = True
                used += self._release(thread, enclave)
                if thread.release is not None:
                    self._make_ready(thread, now + used)
                    return used
            sleep, thread.pages = thread.idle, None
            assert thread.workload is not None
            if thread.workload.finished:
                self._thread_finished(now + used, thread)
                return used
        self._make_ready(thread, now + max(used, 1) + sleep)
        return used

    def _spin(self, thread: _Thread, now: int) -> int:
        """The thread's fault was refused at `now`: cycles it repeats it until a kernel thread may have made room.

        At least one repeat; repeats get rarer while no kernel thread has anything to do about it."""
        due = self.kernel_due
        while due and due[0] <= now:
            heapq.heappop(due)
        if due and self.refused <= due[0] - now <= self.short_slice:
            cycles = due[0] - now
        else:
            cycles = self.refused << min(thread.refusals, MAX_BACKOFF)
        thread.refusals += 1
        thread.calm = False
        thread.stall += cycles
        self.m.add_to_stall(thread.row, cycles)
        return cycles

    def _refused_above(self, pod: _Pod) -> None:
        """Count a refused fault of a pod below a limited cgroup, if it was neither its own limit nor want of EPC."""
        own = self.m.refused_charges(pod.record.cgroup)
        if own == pod.refused_own and self.m.free_pages:
            pod.refused_above += 1
        pod.refused_own = own

    def _why(self, stop: str, enclave: _Enclave, now: int) -> str:
        """Why a pod's threads cannot go on."""
        if self.m.series == "v2" and self.m.was_killed(enclave.id):
            return f"killed by the OOM path at {self._seconds(now):.3g} s"
        why = "a page fault could not be served" if stop == "SIGBUS" else "outside the enclave"
        return f"{stop}: {why} at {self._seconds(now):.3g} s"

    def _next_batch(self, thread: _Thread) -> None:
        assert thread.workload is not None
        batch = thread.workload.next(TOUCHES_AT_ONCE)
        thread.pages, thread.at = np.ascontiguousarray(batch.pages, np.uint32), 0
        thread.address = thread.pages.ctypes.data
        thread.touch_cycles = max(1, round(batch.touch_ns * self.hz / 1e9))
        thread.idle = round(batch.idle_ns * self.hz / 1e9)
        thread.release = batch.release

    def _release(self, thread: _Thread, enclave: _Enclave) -> int:
        """The enclave gives some of the pages back that its thread is to release: trim, accept, remove."""
        m = self.m
        assert thread.release is not None
        first, count = thread.release
        n = min(count, RELEASED_AT_ONCE)
        thread.release = (first + n, count - n) if count > n else None
        if not self.node.sgx2:
            return 0
        before = m.spent()
        trimmed = m.trim(enclave.id, first, n).done
        accepted = m.touch(enclave.id, range(first, first + trimmed), accept=True, retry=1).done
        if accepted:
            m.remove(enclave.id, first, accepted)
        used = m.spent() - before + accepted * self.eremove + 2 * self.ioctl
        thread.build += used
        return used

    def _thread_finished(self, now: int, thread: _Thread) -> None:
        assert thread.enclave is not None
        pod = thread.enclave.pod
        thread.workload = None
        if all(t.workload is None for e in pod.enclaves for t in e.threads):
            self._end_pod(now, pod, f"finished at {self._seconds(now):.3g} s")

    def _end_pod(self, now: int, pod: _Pod, outcome: str) -> None:
        """All containers of the pod end; its EPC is freed. (No restart: what a kubelet does next is not modelled.)"""
        pod.record.outcome = outcome
        pod.record.ended_at = self._seconds(now)
        self._event(now, pod.plan.name, outcome)
        for enclave in pod.enclaves:
            self._close(enclave)

    def _close(self, enclave: _Enclave) -> None:
        if not enclave.alive:
            return
        enclave.totals |= self._enclave_counters(enclave)
        enclave.alive = False
        m = self.m
        for thread in enclave.threads:
            if thread.row >= 0:
                enclave.pod.stalls += m.stall_histogram(thread.row)
        for thread in enclave.threads[1:]:
            if thread.row >= 0:
                m.end_thread(thread.row)
        if enclave.id in m.tasks:
            m.close(enclave.id)
        elif enclave.id in m.vepcs:
            m.vepc_close(enclave.id)

    def _change_limit(self, now: int, change: LimitChange) -> None:
        if self.m.series == "mainline":
            return
        if change.what:
            self._event(now, "", change.what)
        before = self.m.spent()
        self.m.set_limit(change.path, change.limit_bytes)
        used = self.m.spent() - before
        if used:
            self._event(now, "", f"the write to misc.max reclaimed for {self._seconds(used) * 1e3:.3g} ms")
        for pod in self.pods:
            for enclave in pod.enclaves:
                if enclave.alive and enclave.id in self.m.tasks and self.m.was_killed(enclave.id):
                    self._end_pod(now, pod, f"killed by the OOM path at {self._seconds(now):.3g} s")

    # ---- the record ---------------------------------------------------------------------------------

    def _event(self, now: int, pod: str, what: str) -> None:
        events = self.run_record.events
        if len(events) < MAX_EVENTS and not (what.startswith("ksgxd woken") and any(e.what == what for e in events)):
            events.append(Event(self._seconds(now), pod, what))

    def _enclave_counters(self, enclave: _Enclave) -> dict[str, int]:
        if not enclave.alive or enclave.container.vepc or enclave.id not in self.m.tasks:
            return enclave.totals
        return self.m.enclave_counters(enclave.id)

    def _sample(self, now: int) -> None:
        m, record = self.m, self.run_record
        record.times.append(self._seconds(now))
        record.s_free_bytes.append(m.free_pages * PAGE_SIZE)
        mine = 0
        for pod in self.pods:
            p = pod.record
            usage = m.usage_bytes(p.cgroup)
            mine += usage
            self._gather(pod)
            p.sample(usage)
            if p.max_events and not pod.hit:
                self._event(now, p.name, f"first charge refused: misc.max of {format_bytes(p.limit_bytes or 0)} reached"
                            if p.limit_bytes is not None else "first charge refused by a limit above it")
            pod.hit = p.max_events
        record.s_unattributed_bytes.append(m.capacity_bytes - m.free_pages * PAGE_SIZE - mine)

    def _gather(self, pod: _Pod) -> None:
        """Counters of a pod until now."""
        p = pod.record
        totals = [self._enclave_counters(e) for e in pod.enclaves]
        for name in ("page_ins", "page_outs", "page_outs_by_others", "faults", "grown"):
            setattr(p, name, sum(t.get(name, 0) for t in totals))
        threads = [t for e in pod.enclaves for t in e.threads]
        p.touches = sum(t.touches for t in threads) + sum(t.get("guest", 0) for t in totals)
        p.busy_seconds = self._seconds(sum(t.busy for t in threads))
        p.stall_seconds = self._seconds(sum(t.stall for t in threads))
        p.build_seconds = self._seconds(sum(t.build for t in threads))
        p.wait_seconds = self._seconds(sum(t.wait for t in threads))
        p.max_events = self.m.refused_charges(p.cgroup) + pod.refused_above

    def _finish(self, now: int) -> None:
        for pod in self.pods:
            self._gather(pod)
            stalls = pod.stalls.copy()
            for enclave in pod.enclaves:
                for thread in enclave.threads if enclave.alive else ():
                    if thread.row >= 0:
                        stalls += self.m.stall_histogram(thread.row)
            stalls[0] = 0  # faults that only insert a PTE, which are priced with the page's EADD
            pod.record.stalls = [int(n) for n in stalls]
            self._where(now, pod)

    def _where(self, now: int, pod: _Pod) -> None:
        """On a machine with several NUMA nodes: how much of the pod's EPC is on another node than its threads."""
        if len(self.m.node_ids) < 2:
            return
        home = pod.plan.numa if pod.plan.numa is not None else self.m.node_ids[0]
        counts: dict[int, int] = {}
        for enclave in pod.enclaves:
            if enclave.alive and enclave.id in self.m.enclaves:
                for node, pages in self.m.pages_by_node(enclave.id).items():
                    counts[node] = counts.get(node, 0) + pages
        total, away = sum(counts.values()), sum(n for node, n in counts.items() if node != home)
        if away:
            what = f"{away / total:.0%} of its EPC pages are on another NUMA node than its threads"
            self._event(now, pod.plan.name, f"{what} (their slower access is not modelled)")
