"""10,000 operations of 8 processes on the files in the host's tree, while clients page under a limit that they change.

Each process knows what must come of all that it does in cgroups of its own, to the letter; where others are at work too
it knows which errno the kernel could give. The test turns the daemon, so it must not itself ask for anything in the
mount while that stands.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PATIENCE, Live
from hosts import lacking

from epcgroup.cgroupfs import mounts
from epcgroup.units import PAGE_SIZE

LACKING = lacking()
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
WORKERS = 8
OPERATIONS = 1250  # of each
LIMITS = (64, 96, 128)  # pages, of the group in which the clients are; all of them below what these use

REMOVED = ("ENOENT", "ENODEV", "ESTALE")  # the last is libfuse's, see docs/reference/files-exceptions.md

CLIENT = """
import select, time

enclave = Enclave(160 * PAGE)
memory = enclave.memory
say("ready")
rounds = 0
good = True
while not select.select([sys.stdin], [], [], 0)[0]:
    rounds += 1
    for page in range(160):
        memory[page * PAGE] = (page + rounds) & 255
        if page % 16 == 0:
            time.sleep(0.02)  # others want the CPU too
    good = good and all(memory[page * PAGE] == (page + rounds) & 255 for page in range(160))
say(rounds, good)
"""

WORKER = """
import errno, json, os, random, sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

top, number, operations = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
limits, removed = json.loads(sys.argv[4])
random.seed(number)
mine, shared, common = top / f"w{number}", top / "shared", top / "common"
done, came, there = Counter(), Counter(), 0  # there: what is left of the directories it made in `common`


def call(function, *args):
    try:
        return function(*args)
    except OSError as error:
        return errno.errorcode[error.errno]


def read(file):
    fd = os.open(file, os.O_RDONLY)
    try:
        return os.read(fd, 4096).decode()
    finally:
        os.close(fd)


def write(file, text):
    fd = os.open(file, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def expect(got, *allowed):
    assert got in allowed, f"{name}: {got!r}, not one of {allowed}"
    came[got if isinstance(got, str) and got.startswith("E") else "ok"] += 1


def limit_text(pages):
    return "sgx_epc max" if pages is None else f"sgx_epc {pages * 4096}"


mine.mkdir()
write(mine / "cgroup.subtree_control", "+misc")
write(common / "cgroup.subtree_control", "+misc")
children = {}  # name -> what its misc.max must show
held = None  # an open misc.max: descriptor, name of the child, whether its file is still the same
misc = True
events = 0
NAMES = (
    "mkdir", "rmdir", "write", "bad write", "read", "read others", "hold", "read held", "controller",
    "shared limit", "shared events", "shared current", "common mkdir", "common rmdir", "common write", "common read",
    "list",
)
for _ in range(operations):
    name = random.choice(NAMES)
    done[name] += 1
    child = random.choice(("a", "b", "c"))
    path = mine / child
    missing = child not in children
    gone = missing or not misc
    other = common / random.choice("xyz")
    if name == "mkdir":
        expect(call(os.mkdir, path), None if missing else "EEXIST")
        children.setdefault(child, "sgx_epc max\\n")
    elif name == "rmdir":
        expect(call(os.rmdir, path), "ENOENT" if missing else None)
        children.pop(child, None)
        if held and held[1] == child:
            held[2] = False
    elif name == "write":
        text = limit_text(random.choice([None, random.randrange(1000)]))
        expect(call(write, path / "misc.max", text), "ENOENT" if gone else None)
        if not gone:
            children[child] = text + "\\n"
    elif name == "bad write":
        text = random.choice(("sgx_epc -1", "sgx_epc", "epc 4096", "sgx_epc 1 2", "sgx_epc 4k"))
        expect(call(write, path / "misc.max", text), "ENOENT" if gone else "EINVAL")
    elif name == "read":
        expect(call(read, path / "misc.max"), "ENOENT" if gone else children[child])
    elif name == "read others":
        file, text = random.choice((("misc.current", "sgx_epc 0\\n"), ("misc.events", "sgx_epc.max 0\\n"),
                                    ("misc.peak", "sgx_epc 0\\n")))
        expect(call(read, path / file), "ENOENT" if gone else text)
        expect(call(read, path / "cgroup.procs"), "ENOENT" if missing else "")
    elif name == "hold" and not gone:
        if held:
            os.close(held[0])
        held = [os.open(path / "misc.max", os.O_RDONLY), child, True]
    elif name == "read held" and held:
        fd, child, same = held
        expect(call(lambda: os.pread(fd, 4096, 0).decode()), children[child] if same else "ENODEV")
    elif name == "controller":
        misc = not misc
        expect(call(write, mine / "cgroup.subtree_control", "+misc" if misc else "-misc"), None)
        children = dict.fromkeys(children, "sgx_epc max\\n")
        if held and not misc:
            held[2] = False
    elif name == "shared limit":
        expect(call(write, shared / "misc.max", limit_text(random.choice(limits))), None)
        expect(call(read, shared / "misc.max"), *(limit_text(pages) + "\\n" for pages in limits))
    elif name == "shared events":
        now = int(read(shared / "misc.events").split()[1])
        assert now >= events, "events fell"
        events = now
    elif name == "shared current":
        assert 0 < int(read(shared / "misc.current").split()[1]) <= max(limits) * 4096
    elif name == "common mkdir":
        got = call(os.mkdir, other)
        expect(got, None, "EEXIST")
        there += got is None
    elif name == "common rmdir":
        got = call(os.rmdir, other)
        expect(got, None, "ENOENT")
        there -= got is None
    elif name == "common write":
        expect(call(write, other / "misc.max", "sgx_epc 4096"), None, *removed)
    elif name == "common read":
        expect(call(read, other / "misc.max"), "sgx_epc max\\n", "sgx_epc 4096\\n", *removed)
    elif name == "list":
        names = set(os.listdir(mine))
        assert names - {"cgroup." + rest for rest in names} >= set(children), names
        assert {"a", "b", "c"} & names == set(children), names
name = "end"
if held:
    os.close(held[0])
for child in children:
    expect(call(os.rmdir, mine / child), None)
expect(call(os.rmdir, mine), None)
print(json.dumps([sum(done.values()), there, came]))
"""


def ended(live: Live, process: "subprocess.Popen[str]") -> tuple[str, str]:
    live.until(lambda: process.poll() is not None)
    return process.communicate(timeout=PATIENCE)


def started(*argv: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ten_thousand_operations_of_eight_processes_lose_nothing(live: Callable[[int], Live], tmp_path: Path) -> None:
    daemon = live(512)
    top, shared, common = (daemon.group(name) for name in ("", "/shared", "/common"))
    place = top.folder
    daemon.limit("/shared", LIMITS[0])
    clients = [daemon.client(CLIENT, group="/shared") for _ in range(2)]
    assert [client.line() for client in clients] == ["ready", "ready"]
    log = tmp_path / "files.log"
    mount = started("-m", "epcgroup", "mount", "--live", place, "--directory", daemon.directory, "--log", log)
    workers = []
    try:
        _, err = ended(daemon, mount)
        assert (mount.returncode, err) == (0, "")
        for number in range(WORKERS):
            argv = (str(place), str(number), str(OPERATIONS), json.dumps([LIMITS, REMOVED]))
            workers.append(started("-c", WORKER, *argv))
        heard = [ended(daemon, worker) for worker in workers]
        assert [err for _, err in heard] == [""] * WORKERS
        for client in clients:
            client.tell("end")
            rounds, good = client.line().split()
            assert int(rounds) > 0 and good == "True"
            assert client.ended() == 0
        daemon.settle()
        umount = started("-m", "epcgroup", "umount", place)
        assert (ended(daemon, umount), umount.returncode) == (("", ""), 0)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        if str(place) in mounts.ours():
            mounts.unmount(place, lazy=True)
    assert log.read_text() == ""
    operations, there, came = zip(*(json.loads(out) for out, _ in heard), strict=True)
    assert sum(operations) == WORKERS * OPERATIONS
    answers: Counter[str] = sum(map(Counter, came), Counter())
    assert {"ok", "EEXIST", "EINVAL", "ENODEV", "ENOENT"} <= set(answers) <= {"ok", "EEXIST", "EINVAL", *REMOVED}

    left = {folder.name for folder in common.folder.iterdir() if folder.is_dir()}
    assert len(left) == sum(there)
    for name in left:
        (common.folder / name).rmdir()
    daemon.daemon.groups.prune()
    assert set(daemon.machine.cgroups) == {"/", top.path, shared.path, common.path}
    assert {folder for folder in place.rglob("*") if folder.is_dir()} == {shared.folder, common.folder}
    counts = {group: daemon.machine.misc(group.path) for group in (top, shared, common)}
    assert [count.current for count in counts.values()] == [0, 0, 0]
    assert counts[shared].events == counts[top].events > 0
    assert counts[common].events == 0
    assert counts[shared].peak <= LIMITS[-1] * PAGE_SIZE
