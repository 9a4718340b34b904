"""A container as a process: enclaves of the live daemon whose threads touch pages as their workloads say.

Run as `python -m epcgroup.enact.worker`. On standard input: a pickled Job, then "go NANOSECONDS", the moment of the
host's monotonic clock at which the container starts. It says "ready" when it waits for that.

A touch is a store into the page. Touches are done some hundred at a time by numpy, which lets other threads run while
one of them waits in a fault; the computing between them follows in one piece. Computing is CPU time of the thread,
waiting for a CPU is what the kernel says (schedstat), and what a batch of touches with faults in it took beyond what it
takes without is stall. The faults of a batch share its stall evenly; those that are the first touch of a page since
the build count as building, as in a simulation.
"""

import math
import os
import pickle
import resource
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from epcgroup.enact.account import BUILD, BUSY, REFUSED, STALL, STALLS, STOP, TOUCHES, WAIT, Account
from epcgroup.live.client import Enclave
from epcgroup.sim.plan import ContainerPlan, enclave_name, heap_pages, start_threads
from epcgroup.sim.workload import Pages, Workload
from epcgroup.trace import STALL_BUCKETS, STALL_BUCKETS_PER_OCTAVE
from epcgroup.units import PAGE_SIZE

BATCH_NS = 1_000_000  # of touches and what is computed between them
MAX_BATCH = 500  # touches
BUILT_OF_EDMM = 16  # pages, as in a simulation
WORDS = PAGE_SIZE // 8
_SCRATCH = 2048  # words that computing passes over: a microsecond or so


Words = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Job:
    """What a client process is to do."""

    directory: str  # of the daemon
    pod: str
    container: ContainerPlan
    seed: int
    account: int  # descriptor


def built_pages(container: ContainerPlan) -> int:
    """Pages of each enclave that are added before it is initialised."""
    heap = max(heap_pages(container.use_bytes // container.enclaves), 1)
    return min(heap, BUILT_OF_EDMM) if container.edmm else heap


def main() -> None:
    job: Job = pickle.load(sys.stdin.buffer)
    account = Account(job.container.enclaves * job.container.threads, job.account)
    calibrate()
    print("ready", flush=True)
    _, start = sys.stdin.buffer.readline().split()
    time.sleep(max(0.0, (int(start) - time.monotonic_ns()) / 1e9))
    numbers = range(job.container.enclaves)
    owners = [threading.Thread(target=_enclave, args=(job, account, i), daemon=True) for i in numbers]
    for thread in owners:
        thread.start()
    for thread in owners:
        thread.join()
    os._exit(0)  # enclaves end with the process; unmapping them one by one would take longer


def _enclave(job: Job, account: Account, index: int) -> None:
    """Build an enclave and be its first thread; ends when all its threads have ended."""
    c = job.container
    rows = account.threads[index * c.threads : (index + 1) * c.threads]
    workloads = start_threads(c, enclave_name(job.pod, c, index), job.seed)
    begun = time.monotonic_ns()
    try:
        heap = max(heap_pages(c.use_bytes // c.enclaves), 2)
        enclave = Enclave(heap * PAGE_SIZE, job.directory, built=built_pages(c))
    except OSError as error:
        account.client[REFUSED] = error.errno or -1
        os._exit(1)
    rows[0, BUILD] = time.monotonic_ns() - begun
    memory = np.frombuffer(enclave.memory, np.int64)
    fresh = np.arange(heap) < built_pages(c)
    threads = [
        threading.Thread(target=_touch, args=(workload, memory, fresh, row, account.client), daemon=True)
        for workload, row in zip(workloads[1:], rows[1:], strict=True)
    ]
    for thread in threads:
        thread.start()
    _touch(workloads[0], memory, fresh, rows[0], account.client)
    for thread in threads:
        thread.join()


def _touch(workload: Workload, memory: Words, fresh: Flags, row: Words, client: Words) -> None:
    """One thread at work until it has finished or is told to stop. `fresh`: pages not touched since the build."""
    clock, scratch, value = time.monotonic_ns, np.zeros(_SCRATCH, np.int64), np.ones(1, np.int64)
    schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    waited = _waited(schedstat)
    owed = 0.0  # nanoseconds of computing
    while not client[STOP] and not workload.finished:
        batch = workload.next(min(MAX_BATCH, max(1, int(BATCH_NS / workload.touch_ns))))
        n = len(batch.pages)
        if n:
            words = batch.pages.astype(np.int64) * WORDS
            before, faults_before = _waited(schedstat), _faults()
            begun = clock()
            memory.put(words, value)
            took = clock() - begun
            after, faults = _waited(schedstat), _faults() - faults_before
            first = min(faults, _touched_first(fresh, batch.pages))
            if faults:
                stall = max(0, took - (after - before) - int(n * access_ns)) / faults  # of each
                row[BUILD] += round(first * stall)
                row[STALL] += round((faults - first) * stall)
                row[STALLS + _bucket(stall)] += faults - first
            owed += n * (batch.touch_ns - access_ns)
            row[BUSY] += round(n * batch.touch_ns)
            row[TOUCHES] += n
            end = time.thread_time_ns() + owed
            while (now := time.thread_time_ns()) < end:
                np.add(scratch, 1, out=scratch)
            owed = end - now
            row[WAIT] += after - waited
            waited = after
        if batch.idle_ns:
            time.sleep(batch.idle_ns / 1e9)
    os.close(schedstat)


def _touched_first(fresh: Flags, pages: Pages) -> int:
    """How many pages of a batch had not been touched; now they have. (Threads of an enclave may count one twice.)"""
    first = np.unique(pages[fresh[pages]])
    fresh[first] = False
    return len(first)


def _bucket(nanoseconds: float) -> int:
    return min(STALL_BUCKETS - 1, int(math.log2(max(nanoseconds, 1.0)) * STALL_BUCKETS_PER_OCTAVE))


def _faults() -> int:
    """Of this thread; the kernel counts one that userfaultfd has served as minor."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_minflt + usage.ru_majflt


def _waited(schedstat: int) -> int:
    """Nanoseconds that the thread was runnable without a CPU."""
    return int(os.pread(schedstat, 100, 0).split()[1])


access_ns = 0.0  # a store into a page without a fault


def calibrate() -> None:
    """Measure access_ns: stores into pages of ordinary memory, the least of some tries."""
    global access_ns
    pages = np.zeros(1024 * WORDS, np.int64)
    words = np.random.default_rng(0).integers(0, 1024, 500) * WORDS
    pages.put(words, 1)
    tries = []
    for _ in range(20):
        begun = time.monotonic_ns()
        pages.put(words, 1)
        tries.append(time.monotonic_ns() - begun)
    access_ns = min(tries) / len(words)


if __name__ == "__main__":
    main()
