"""`epcgroup runtime`: what a program under it is told by statfs, fstatfs, openat2 and bpf, of our tree and of all else.

The program is a Python script here; OCI runtimes are in test_containers.py.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from epcgroup.live import seccomp, supervisor

CGROUP2 = 0x63677270
PROC = 0x9FA0

# What the scripts have: the calls as the kernel takes them; an errno's name where a call fails.
PRELUDE = """
import ctypes, errno, json, os, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_long
tree, path = sys.argv[1:3]

def call(number, *arguments):
    value = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in (number, *arguments)))
    return errno.errorcode[ctypes.get_errno()] if value < 0 else value

def statfs(name):
    found = ctypes.create_string_buffer(120)
    value = call(137, name.encode(), found) if isinstance(name, str) else call(138, name, found)
    return value or struct.unpack_from("<q", found)[0]

NO_XDEV, BENEATH = 1, 8

def openat2(directory, name, flags=0, resolve=NO_XDEV | BENEATH):
    how = struct.pack("<QQQ", flags, 0, resolve)
    return call(437, directory, name.encode(), how, len(how))

def say(**words):
    print(json.dumps(words), flush=True)
"""

# The programs of a cgroup that decide on devices.
BPF = """
DEVICE = 6  # BPF_CGROUP_DEVICE

def bpf(command, *fields):
    attributes = ctypes.create_string_buffer(struct.pack(*fields), 128)
    return call(321, command, attributes, 128), attributes

def load():
    code = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0)  # allow
    keep = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    return bpf(5, "<IIQQ", 15, 2, *map(ctypes.addressof, keep))[0]

def attach(directory, program, command=8):
    return bpf(command, "<IIII", directory, program, DEVICE, 2 if command == 8 else 0)[0]

def detach(directory, program):
    return attach(directory, program, command=9)

def query(directory, room=8):
    ids = ctypes.create_string_buffer(4 * max(room, 1))
    value, attributes = bpf(16, "<IIIIQI", directory, DEVICE, 0, 0, ctypes.addressof(ids), room)
    count, = struct.unpack_from("<I", attributes, 24)
    return value or (list(struct.unpack_from(f"<{count}I", ids)) if room else count)
"""


def told(host: Any, script: str, *, wrapped: bool = True) -> dict[str, Any]:
    """What a script under `epcgroup runtime` says, or one by itself. The tree has a group "a"."""
    python = [sys.executable, "-c", PRELUDE + BPF + script, str(host.tree), host.path[1:]]
    group = host.tree / "a"
    host.run("mkdir", str(group))
    found: dict[str, Any] = json.loads(host.run(*(["epcgroup", "runtime", "--"] if wrapped else []), *python))
    host.run("rmdir", str(group))
    return found


def test_our_tree_is_cgroup2_and_all_else_what_it_is(host: Any) -> None:
    said = told(
        host,
        """
os.chdir(tree)
say(
    named=statfs(tree), below=statfs(f"{tree}/a/misc.max"), relative=statfs("a"),
    opened=statfs(os.open(tree, os.O_RDONLY)), as_path=statfs(os.open("a/cgroup.procs", os.O_PATH)),
    above=statfs("/sys/fs/cgroup"), other=statfs("/proc"), missing=statfs(f"{tree}/b"), closed=statfs(1000),
    bad_buffer=call(137, tree.encode(), 8), bad_path=call(137, 8, bytes(120)), no_path=statfs(""),
)
""",
    )
    assert said == {
        **dict.fromkeys(("named", "below", "relative", "opened", "as_path", "above"), CGROUP2),
        "other": PROC,
        **dict.fromkeys(("missing", "no_path"), "ENOENT"),
        "closed": "EBADF",
        **dict.fromkeys(("bad_buffer", "bad_path"), "EFAULT"),
    }


def test_openat2_crosses_into_our_tree_and_into_nothing_else(host: Any) -> None:
    said = told(
        host,
        """
above, root = os.open("/sys/fs/cgroup", os.O_PATH), os.open("/", os.O_PATH)
edge = libc.mmap(None, 8192, 3, 0x22, -1, 0) + 4096  # of memory
libc.munmap(ctypes.c_void_p(edge), 4096)
opened = openat2(above, f"{path}/a/misc.max", os.O_RDWR | os.O_CLOEXEC)
kept = openat2(above, f"{path}/a/misc.max", os.O_WRONLY)
os.write(kept, b"sgx_epc 4096")
say(
    text=os.read(opened, 100).decode(),
    inherited=[os.get_inheritable(fd) for fd in (opened, kept)],
    as_path=openat2(above, path, os.O_PATH),
    missing=openat2(above, f"{path}/a/no"), missing_directory=openat2(above, f"{path}/no/cgroup.procs"),
    missing_beside=openat2(above, "no"),
    refused=openat2(above, f"{path}/a/misc.current", os.O_WRONLY | os.O_DIRECTORY),
    real=openat2(above, "cgroup.procs") in range(1000),
    other=openat2(root, "proc/uptime"), above=openat2(above, "../cgroup"),
    not_beneath=openat2(above, f"{path}/a/misc.max", resolve=NO_XDEV),
    allowed=openat2(above, f"{path}/a/misc.max", resolve=0) in range(1000),
    closed=openat2(1000, "a"),
    bad_how=call(437, above, path.encode(), 8, 24), cut_how=call(437, above, path.encode(), edge - 16, 24),
    short_how=call(437, above, b"a", bytes(8), 8),
)
""",
    )
    assert said == {
        "text": "sgx_epc 4096\n",
        "inherited": [False, True],
        **dict.fromkeys(("missing", "missing_directory", "missing_beside"), "ENOENT"),
        "refused": "ENOTDIR",
        **dict.fromkeys(("real", "allowed"), True),
        **dict.fromkeys(("other", "above", "not_beneath", "as_path"), "EXDEV"),
        "closed": "EBADF",
        **dict.fromkeys(("bad_how", "cut_how"), "EFAULT"),
        "short_how": "EINVAL",
    }


def test_device_programs_are_those_of_the_real_directory(host: Any) -> None:
    script = """
from epcgroup.live import uffd

ours = os.open(f"{tree}/a", os.O_RDONLY)
real = os.open(f"{path}/a", os.O_RDONLY, dir_fd=uffd.new_mount(b"cgroup2"))
program, another = load(), load()
before = query(ours)
attached = attach(ours, program), attach(ours, another)
two, short, none, there = query(ours), query(ours, room=1), query(ours, room=0), query(real)
detached = detach(ours, program)
say(
    before=before, attached=attached, count=len(two), same=there == two, short=short, none=none, detached=detached,
    rest=query(real) == two[1:], again=detach(ours, program), no_program=attach(ours, 1000),
    tree=len(query(os.open(tree, 0))),
    file=query(os.open(f"{tree}/a/cgroup.procs", os.O_RDONLY)), elsewhere=query(os.open("/", os.O_RDONLY)),
)
"""
    assert told(host, script) == {
        "before": [],
        "attached": [0, 0],
        "count": 2,
        "same": True,
        "short": "ENOSPC",
        "none": 2,
        "detached": 0,
        "rest": True,
        "again": "ENOENT",
        "no_program": "EBADF",
        "tree": 0,
        **dict.fromkeys(("file", "elsewhere"), "EBADF"),
    }


def test_who_is_not_root_gets_what_the_kernel_gives(host: Any) -> None:
    script = """
above, ours = os.open("/sys/fs/cgroup", os.O_PATH), os.open(tree, os.O_RDONLY)
program = load()
os.setresuid(1000, 1000, 1000)
say(opened=openat2(above, f"{path}/misc.max"), query=query(ours), attach=attach(ours, program))
"""
    said = told(host, script)
    assert said == told(host, script, wrapped=False)
    assert said["opened"] == "EXDEV"
    assert {type(answer) for answer in said.values()} == {str}


def test_a_program_without_a_daemon_runs_as_it_is(own_host: Any) -> None:
    own_host.run("epcgroup", "down")
    python = [sys.executable, "-c", PRELUDE + "say(tree=statfs(tree))", str(own_host.tree), ""]
    line, said = own_host.run("epcgroup", "runtime", "--", *python).splitlines()
    assert line == f"epcgroup: no daemon in {own_host.run_directory}; {sys.executable} sees no misc files"
    assert json.loads(said) == {"tree": CGROUP2}  # the real one: the mount went with the daemon


LASTING = """
print(statfs(tree), flush=True)
for line in sys.stdin:
    print(statfs("/proc"), flush=True)
"""


class Lasting:
    """A program under `epcgroup runtime` that says what statfs tells it, when asked."""

    def __init__(self, host: Any) -> None:
        python = [sys.executable, "-c", PRELUDE + LASTING, str(host.tree), ""]
        self.popen = host.popen("epcgroup", "runtime", "--", *python, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._host = host
        assert int(host.line(self.popen)) == CGROUP2

    def proc(self) -> str:
        self.popen.stdin.write(b"\n")
        self.popen.stdin.flush()
        return str(self._host.line(self.popen)).strip()

    def end(self) -> None:
        self.popen.communicate()


def supervisor_of(daemon: int) -> int:
    """The process that answers."""
    (child,) = [int(pid) for pid in Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
                if b"epcgroup.live.supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes()]  # fmt: skip
    return child


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("end", ["killed", "down"])
def test_calls_go_on_when_the_daemon_has_ended_and_nothing_stays_after_them(own_host: Any, end: str) -> None:
    daemon = own_host.status()["pid"]
    one, two = Lasting(own_host), Lasting(own_host)
    supervisor = supervisor_of(daemon)
    if end == "killed":
        os.kill(daemon, signal.SIGKILL)
    else:
        own_host.run("epcgroup", "down")
    own_host.until(lambda: not is_alive(daemon))
    one.end()
    assert two.proc() == str(PROC)
    assert is_alive(supervisor)
    two.end()
    own_host.until(lambda: not is_alive(supervisor))


def test_when_the_supervisor_is_killed_calls_fail_and_the_next_program_has_a_new_one(own_host: Any) -> None:
    daemon = own_host.status()["pid"]
    one = Lasting(own_host)
    supervisor = supervisor_of(daemon)
    os.kill(supervisor, signal.SIGKILL)
    own_host.until(lambda: not is_alive(supervisor))
    assert one.proc() == "ENOSYS"
    two = Lasting(own_host)
    assert two.proc() == str(PROC)
    assert supervisor_of(daemon) != supervisor
    assert own_host.run("epcgroup", "status").startswith("EPC")


CHANGING = """
import os, socket, sys, threading
from epcgroup.live import seccomp
peer = socket.socket(fileno=int(sys.argv[1]))

def become():
    peer.recv(1)
    os.execv("/bin/sleep", ["sleep", "1000"])

threading.Thread(target=become).start()  # not filtered
socket.send_fds(peer, [b"."], [seccomp.install()])
os.fstatvfs(0)
"""


def test_nothing_is_read_of_a_program_that_took_the_callers_place(host: Any) -> None:
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        with theirs:
            argv = [sys.executable, "-c", CHANGING, str(theirs.fileno())]
            caller = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        stack.callback(caller.wait)
        stack.callback(caller.kill)
        _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
        stack.callback(os.close, listener)
        assert select.select([listener], [], [], 30)[0] == [listener]
        notification = bytearray(supervisor._NOTIFICATION.size)
        fcntl.ioctl(listener, supervisor._RECV, notification)
        call = supervisor._Call(listener, bytes(notification), stack)
        assert (call.nr, call.pid) == (seccomp.FSTATFS, caller.pid)
        ours.send(b".")
        host.until(lambda: Path(f"/proc/{caller.pid}/comm").read_text() == "sleep\n")
        for ask in (lambda: call.memory(call.arguments[1]), lambda: call.copy_of(0), call.is_root):
            with pytest.raises(FileNotFoundError):
                ask()


def test_what_cannot_be_run_is_said_in_one_line(host: Any) -> None:
    assert host.run("epcgroup", "runtime", "--", "/no/runtime", status=2) == (
        "epcgroup: /no/runtime: cannot run it: No such file or directory\n"
    )
    assert host.run("epcgroup", "runtime", status=2) == "epcgroup: no runtime; epcgroup runtime -- crun ARGS ...\n"


def test_a_program_that_is_filtered_already_is_refused_in_one_line(host: Any) -> None:
    twice = ["epcgroup", "runtime", "--", sys.executable, "-m", "epcgroup", "runtime", "--", "true"]
    assert host.run(*twice, status=2) == ("epcgroup: cannot install a seccomp filter: Device or resource busy\n")
