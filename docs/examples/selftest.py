"""The self-test plan of the series, on files that are mounted: `selftest.py DIR [SEED]`.

With `epcgroup up --files DIR` the processes are real, their enclaves real memory that the daemon pages; with `epcgroup
mount --epc SIZE DIR` each is an enclave by name of a simulated machine. Cgroups, limits, steps and pass conditions are
those of the series' run_epc_cg_selftests.sh, C being the EPC's size. An enclave is as large as the EPC, all its pages
added before it runs. A process succeeds when it has built it, stored a word in every 64th page and read all back. It
fails when it is refused, when it gets SIGBUS, and when it waits for ever: v17 repeats a fault that finds no room, so
one has failed when by the daemon's account all that still work wait, and nothing has moved while it tried often.

Steps 1 to 3 are about what does not fit at the same time: there they build one after the other, and all stay until the
last has tried. Left to chance more fail: who is refused leaves some time later, and whoever meets a cgroup in which
nothing can be reclaimed fails too, be its enclave complete (ENOMEM, SIGBUS). SEED decides who is killed when.
"""

import errno
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

from epcgroup.interface import EPC, read_values
from epcgroup.live import wire
from epcgroup.live.client import Enclave

PAGE = 4096
MAGIC = 0x1122334455667788
TRIES = 200  # turns of the daemon, each of which tries a waiting fault again
PATIENCE = 60  # seconds for charges to come back, where the series' script sleeps 2
WORDS = ("build", "store", "read")
OK = "succeed"
WAITS = "waits for ever"


def status():
    """The daemon's, as `epcgroup status --json`."""
    with wire.connect() as daemon:
        return wire.status_of(wire.ask(daemon, wire.Packet(wire.STATUS)))


class Process:
    """A process with an enclave. `tell` it to build, store or read; `hear` how that ended."""

    working: ClassVar = set()  # who has been told something and has not answered

    def __init__(self, group, size):
        argv = [sys.executable, __file__, "--enclave", str(group), str(size)]
        self.popen = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, word):
        self.popen.stdin.write(f"{word}\n")
        self.popen.stdin.flush()
        self.working.add(self)

    def hear(self):
        said = self._said()
        self.working.discard(self)
        return said

    def _said(self):
        before, since = None, 0
        while not select.select([self.popen.stdout], [], [], 0.1)[0]:
            found = status()
            now = [found["waiting"], *([g["loads"], g["added"], g["write_outs"]] for g in found["groups"].values())]
            if now != before or found["waiting"] < len(self.working):
                before, since = now, found["turns"]
            elif found["turns"] - since >= TRIES:
                self.end()
                return WAITS
        line = self.popen.stdout.readline().strip()
        return line or signal.Signals(-self.popen.wait()).name

    def end(self):
        """Kill it, if it has not ended."""
        self.popen.kill()
        self.popen.communicate()
        self.working.discard(self)


class Simulated:
    """The same of a simulated machine, one write to DIR/epcgroup.control a command."""

    def __init__(self, control, group, size):
        self.control, self.group, self.size = control, group, size
        self.built = False

    def tell(self, word):
        try:
            if word == "build":
                self._write(f"enclave {id(self)} {self.group} {self.size}")
                self.built = True
            else:
                self._write(f"touch {id(self)}")
            self.answer = OK
        except OSError as error:
            self.answer = errno.errorcode[error.errno]

    def _write(self, command):
        self.control.write_text(command)

    def hear(self):
        return self.answer

    def end(self):
        if self.built:
            self._write(f"close {id(self)}")
            self.built = False


def enclave(group, size):
    """What a Process runs. As ash_cgexec.sh: it moves itself into its group first."""
    (group / "cgroup.procs").write_text("0")
    words = range(0, size // 8, 64 * PAGE // 8)
    for line in sys.stdin:
        match line.strip():
            case "build":
                try:
                    held = Enclave(size, built=size // PAGE)
                    memory = held.memory.cast("Q")
                except OSError as error:
                    print(errno.errorcode[error.errno], flush=True)
                    return
            case "store":
                for word in words:
                    memory[word] = MAGIC + word
            case "read":
                if any(memory[word] != MAGIC + word for word in words):
                    print("wrong content", flush=True)
                    return
        print(OK, flush=True)


class Plan:
    def __init__(self, place, seed):
        self.place = place
        self.random = random.Random(seed)
        self.top = place / "sgx_kselftest"
        self.small_parent = self.top / "sgx_test_small_parent"
        self.groups = {
            "small": self.small_parent / "sgx_test_small",
            "large": self.top / "sgx_test_large",
            "larger": self.top / "sgx_test_larger",
        }
        self.control = place / "epcgroup.control"
        self.simulated = self.control.exists()
        capacity = read_values((place / "misc.capacity").read_text())[EPC] if self.simulated else status()["epc"]
        small = capacity // 512
        self.sizes = {"small": small, "large": 4 * small, "larger": capacity}
        self.passed = True

    def start(self, group):
        if self.simulated:
            return Simulated(self.control, f"/{group.relative_to(self.place)}", self.sizes["larger"])
        return Process(group, self.sizes["larger"])

    def set_up(self):
        for group in (self.small_parent, *self.groups.values()):
            group.mkdir(parents=True)
        for parent in (self.place, self.top, self.small_parent):
            (parent / "cgroup.subtree_control").write_text("+misc")
        for name, size in self.sizes.items():
            limited = self.small_parent if name == "small" else self.groups[name]
            (limited / "misc.max").write_text(f"{EPC} {size}")

    def clean_up(self):
        for group in (*self.groups.values(), self.small_parent, self.top):
            if group.exists():
                group.rmdir()

    def run(self):
        kilobytes = ", ".join(f"{name} {size >> 10} KiB" for name, size in self.sizes.items())
        print(f"enclaves of {self.sizes['larger'] >> 20} MiB; {kilobytes}")
        self.step(1, "small", 1, "it fails", lambda failed, n: failed == 1, in_turn=True)
        self.step(2, "large", 4, "at least one succeeds", lambda failed, n: failed < n, in_turn=True)
        self.step(3, "large", 5, "at least one fails", lambda failed, n: failed > 0, in_turn=True)
        self.step(4, "larger", 8, "none fails", lambda failed, n: failed == 0)
        self.step(5, "larger", 8, "none of the others fails", lambda failed, n: failed == 0, kill=True)
        print("6  large, memory.max    not here: pages that are written out are no memory of the group")
        left = self.left()
        self.say(f"7  all                  {left} bytes are left charged: none is", left == 0)
        return self.passed

    def step(self, number, name, n, wanted, holds, *, in_turn=False, kill=False):
        """n processes; `holds` is given how many of them failed, and n."""
        processes = []
        victim, moment = self.random.randrange(n), self.random.choice(WORDS)
        try:
            for _ in range(n):
                processes.append(self.start(self.groups[name]))
            results = dict.fromkeys(processes, OK)
            for word in WORDS:
                told = [p for p in processes if results[p] == OK]
                for p in told:
                    p.tell(word)
                    if in_turn:
                        results[p] = p.hear()
                if in_turn:
                    continue
                if kill and word == moment:
                    time.sleep(self.random.random() / 10)
                    processes[victim].end()
                    told.remove(processes[victim])
                    results[processes[victim]] = "killed"
                for p in told:
                    results[p] = p.hear()
        finally:
            for p in processes:
                p.end()
        counts = Counter(sorted(results.values(), key=OK.__ne__))
        failed = n - counts[OK] - counts["killed"]
        text = ", ".join(f"{count} {result}" for result, count in counts.items())
        who = f"{n} process{'es' if n > 1 else ''}"
        self.say(f"{number}  {name:6}  {who:11}  {text}: {wanted}", holds(failed, n))
        self.left()

    def say(self, text, passed):
        print(f"{text:72}{'ok' if passed else 'FAIL'}", flush=True)
        self.passed &= passed

    def left(self):
        """Bytes that are charged; waits for those who have ended to be gone."""
        deadline = time.monotonic() + PATIENCE
        while (left := read_values((self.top / "misc.current").read_text())[EPC]) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left


def main(place, seed):
    plan = Plan(place, seed)
    if plan.top.exists():
        sys.exit(f"{plan.top} exists already")
    try:
        plan.set_up()
        return plan.run()
    finally:
        plan.clean_up()


if __name__ == "__main__":
    if sys.argv[1] == "--enclave":
        enclave(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(not main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
