"""Replays transcripts of the real misc controller (Linux 7.3 with a resource sgx_epc) against a tree of ours.

A transcript is JSON lines: an operation, its result or errno, and the misc.* files afterwards ("same" in our sample
where they are as before). `replay` yields what differs, less what docs/reference/files-exceptions.md excepts.
"""

import contextlib
import ctypes
import errno
import fcntl
import fnmatch
import json
import lzma
import mmap
import os
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mounted import real_cgroup

from epcgroup.cgroupfs import fuse
from epcgroup.cgroupfs.control import Control
from epcgroup.cgroupfs.controller import Machines
from epcgroup.cgroupfs.passthrough import Passthrough
from epcgroup.cgroupfs.tree import Caller, File, Open, Tree
from epcgroup.machine import Machine, Section

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "tests/samples/misc-abi-7.3-sample.jsonl"
WHOLE = ROOT.parent / "shared/data/misc-abi-7.3.jsonl.xz"
EXCEPTIONS = ROOT / "docs/reference/files-exceptions.md"
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids", "misc")
# The first one is not looked at in the root: who else is there is not known.
CORE_FILES = ("cgroup.procs", "cgroup.controllers", "cgroup.subtree_control", "cgroup.type", "cgroup.events")
FLAGS = {name: getattr(os, name) for name in dir(os) if name.startswith("O_")}
POLL = {name: getattr(select, name) for name in dir(select) if name.startswith("POLL")}

Line = dict[str, Any]


def read_transcript(file: Path) -> dict[str, list[Line]]:
    """Scenario -> its lines."""
    text = (lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()).decode()
    scenarios: dict[str, list[Line]] = {}
    for line in map(json.loads, text.splitlines()):
        lines = scenarios.setdefault(line["id"].partition("/")[0], [])
        if line.get("after") == "same":
            line["after"] = next(each["after"] for each in reversed(lines) if "after" in each)
        lines.append(line)
    return scenarios


class Exception_(NamedTuple):
    """A row of the document: which lines, against what, and what of them is not compared."""

    lines: str  # a pattern of "ID OP ARGUMENTS", `*` for anything
    targets: frozenset[str]
    what: str  # "result", "after", a key of the result, or "other files"


def read_exceptions() -> list[Exception_]:
    rows = []
    for row in EXCEPTIONS.read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in row.strip("|").split("|")]
        if row.startswith("| `"):
            rows.append(Exception_(cells[0], frozenset(cells[1].split(", ")), cells[2]))
    return rows


class Difference(NamedTuple):
    id: str
    op: str
    what: str
    wanted: Any
    got: Any


def replay(lines: list[Line], target: "Target", used: set[Exception_]) -> Iterator[Difference]:
    """What differs and is not excepted; the exceptions that were needed go into `used`."""
    exceptions = [each for each in read_exceptions() if target.name in each.targets]
    for line in lines:
        name = f"{line['id']} {line['op']} {json.dumps(line['args'])}"
        rows = [each for each in exceptions if fnmatch.fnmatchcase(name, each.lines)]
        number, result = target.run(line)
        found: dict[str, tuple[Any, Any]] = {}
        wanted = line["result"]
        if number != line["errno"]:
            found["result"] = (line["errno"], number)
        elif isinstance(wanted, dict) and isinstance(result, dict):
            found |= {key: (wanted[key], result.get(key)) for key in wanted if wanted[key] != result.get(key)}
        elif line["op"] == "listdir" and result is not None:
            ours, theirs = set(result), set(wanted)
            if ours != theirs:
                outside = {each for each in ours ^ theirs if not each.startswith("misc.")}
                found["other files" if ours ^ theirs == outside else "result"] = (wanted, result)
        elif result != wanted and "volatile" not in line:
            found["result"] = (wanted, result)
        if "after" in line:
            core = any(name.startswith("cgroup.") for files in line["after"].values() for name in files)
            after = target.after(core)
            if after != line["after"]:
                found["after"] = (line["after"], after)
        for what, (expected, got) in found.items():
            excused = [row for row in rows if row.what == what]
            used.update(excused)
            if not excused:
                yield Difference(line["id"], line["op"], what, expected, got)


def data_of(args: Line) -> bytes:
    if "data_parts" in args:
        pre, fill, count, post = args["data_parts"]
        return (pre + fill * count + post).encode("latin-1")
    return args["data"].encode("latin-1")


def flags_of(text: str) -> int:
    flags = 0
    for name in text.split("|"):
        flags |= FLAGS[name]
    return flags


def mask_of(text: str) -> int:
    mask = 0
    for name in text.replace("EPOLL", "POLL").split("|"):
        mask |= POLL[name]
    return mask


def mask_text(mask: int) -> str:
    order = ["POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL", "POLLRDNORM", "POLLRDBAND", "POLLWRNORM"]
    return "|".join(name for name in order if mask & POLL[name]) or "timeout"


class Target:
    """Carries out a transcript's operations. A method of an operation's name takes the line, returns the result."""

    name = ""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.charges: dict[str, tuple[str, int]] = {}
        self.uids: dict[str, int] = {}

    def run(self, line: Line) -> tuple[str | None, Any]:
        """(errno or None, result)."""
        method: Callable[[Line], Any] | None = getattr(self, line["op"].replace(":", "_"), None)
        if method is None:
            return None, f"{self.name} has no {line['op']}"
        try:
            return None, method(line)
        except OSError as error:
            return errno.errorcode[error.errno], None

    def after(self, core: bool) -> Line:
        """Of every cgroup the misc.* files, or those of the core that the recorder looked at."""
        raise NotImplementedError

    # Processes are real ones that sleep: names in the transcript, pids here.

    def spawn(self, line: Line) -> str:
        sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
        self.processes[f"${line['args']['process']}"] = sleeper
        return "ok"

    def pid(self, name: str) -> int:
        return self.processes[name].pid

    def with_pids(self, data: bytes) -> bytes:
        return re.sub(rb"\$\w+", lambda m: str(self.pid(m.group().decode())).encode(), data)

    def with_names(self, text: str) -> str:
        for name, process in self.processes.items():
            text = re.sub(rf"\b{process.pid}\b", name.replace("\\", ""), text)
        return text

    def close_all(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGKILL)
            process.communicate()


def boot() -> Machines:
    """The recording kernel: 96 MiB of sgx_epc, 509 of test_res."""
    other = Machine([Section(0, 1)])
    other.set_capacity(509)
    epc = Machine([Section(0, 100663296 // 4096)])
    return Machines({"sgx_epc": epc, "test_res": other}, compiled_in=())


class TreeTarget(Target):
    """The tree without a mount."""

    name = "tree"

    def __init__(self) -> None:
        super().__init__()
        self.machines = boot()
        self.tree = Tree(self.machines, CONTROLLERS)
        self.handles: dict[str, Open] = {}

    @staticmethod
    def path(line: Line) -> str:
        return f"/{line['path']}"

    @staticmethod
    def caller(line: Line) -> Caller:
        uid = line.get("uid", 0)
        return Caller(uid, uid)

    def after(self, core: bool) -> Line:
        return {
            cgroup.path.lstrip("/") or "/": {
                name: self.with_names(self.tree.read(f"{cgroup.path}/{name}"))
                for name in cgroup.files
                if (name in CORE_FILES[cgroup.parent is None :] if core else name.startswith("misc."))
            }
            for cgroup in self.tree.root.subtree()
        }

    def handle(self, line: Line) -> Open:
        if line["path"] not in self.handles:
            raise OSError(9, "EBADF")
        return self.handles[line["path"]]

    def open(self, line: Line) -> str:
        self.handles.pop(line["args"]["handle"], None)
        opened = self.tree.open(self.path(line), flags_of(line["args"]["flags"]), self.caller(line))
        self.handles[line["args"]["handle"]] = opened
        return "ok"

    def close(self, line: Line) -> int:
        self.handle(line)
        del self.handles[line["path"]]
        return 0

    def read(self, line: Line) -> str:
        return self.with_names(self.handle(line).read(line["args"]["count"]).decode("latin-1"))

    def pread(self, line: Line) -> str:
        return self.handle(line).pread(line["args"]["count"], line["args"]["offset"]).decode("latin-1")

    def write(self, line: Line) -> int:
        data = data_of(line["args"])
        self.handle(line).write(self.with_pids(data))
        return len(data)

    def pwrite(self, line: Line) -> int:
        return self.handle(line).pwrite(data_of(line["args"]))

    def writev(self, line: Line) -> int:
        return self.handle(line).write("".join(line["args"]["data"]).encode("latin-1"))

    def lseek(self, line: Line) -> int:
        handle = self.handle(line)
        offset = line["args"]["offset"]
        to = {"SEEK_SET": offset, "SEEK_CUR": handle.pos + offset, "SEEK_END": offset}[line["args"]["whence"]]
        if to < 0:
            raise OSError(22, "EINVAL")
        handle.pos = to
        return to

    def write_file(self, line: Line) -> int:
        data = data_of(line["args"])
        self.tree.write(self.path(line), self.with_pids(data), self.caller(line))
        return len(data)

    def read_file(self, line: Line) -> str:
        return self.with_names(self.tree.read(self.path(line), self.caller(line)))

    def mkdir(self, line: Line) -> int:
        self.tree.mkdir(self.path(line), int(line["args"]["mode"], 8), self.caller(line))
        return 0

    def rmdir(self, line: Line) -> int:
        self.tree.rmdir(self.path(line), self.caller(line))
        return 0

    def listdir(self, line: Line) -> list[str]:
        return sorted(self.tree.names(self.path(line), self.caller(line)))

    def stat(self, line: Line) -> Line:
        found = self.tree.find(self.path(line), self.caller(line))
        kind = "file" if isinstance(found, File) else "dir"
        nlink = 1 if isinstance(found, File) else 2 + len(found.children)
        mode = oct(found.mode & 0o7777)
        sizes = {"size": 0, "blocks": 0, "blksize": 4096}
        return {"type": kind, "mode": mode, "uid": found.uid, "gid": found.gid, "nlink": nlink, **sizes}

    def chmod(self, line: Line) -> int:
        self.tree.chmod(self.path(line), int(line["args"]["mode"], 8), self.caller(line))
        return 0

    def chown(self, line: Line) -> int:
        self.tree.chown(self.path(line), line["args"]["uid"], line["args"]["gid"], self.caller(line))
        return 0

    def access(self, line: Line) -> bool:
        assert line["args"]["mode"] == "W"
        return self.tree.find(self.path(line)).may(self.caller(line), os.W_OK)

    def poll(self, line: Line) -> str:
        wanted = mask_of(line["args"]["events"]) | POLL["POLLERR"]
        return mask_text(self.handle(line).poll() & wanted)

    epoll = poll

    def select(self, line: Line) -> list[int]:
        mask = self.handle(line).poll()
        return [int(bool(mask & select.POLLIN)), 0, int(bool(mask & select.POLLPRI))]

    def charge(self, line: Line) -> str:
        args = line["args"]
        cgroup = self.tree.find(self.path(line))
        assert not isinstance(cgroup, File)
        machine = self.machines.resources[args["resource"]]
        row = machine.charge(self.tree.charged(cgroup).path, args["amount"])
        self.charges[args["as"]] = args["resource"], row
        return "ok"

    def charge_burst(self, line: Line) -> str:
        failed = sum(self.run({**line, "op": "charge", "args": {**line["args"], "as": "-"}})[0] is not None
                     for _ in range(line["args"]["times"]))  # fmt: skip
        return f"{failed} failed"

    def poll_wait(self, line: Line) -> Line:
        """Nobody waits here: the failing charge, and what poll says before and after it."""
        self.handle(line).pread(4096, 0)
        before = self.handle(line).poll()
        self.run({"op": "charge", "path": "a", "args": {"resource": "sgx_epc", "amount": 8192, "as": "-"}})
        return {"revents": mask_text(self.handle(line).poll() & CHANGED), "woke_while_waiting": not before & CHANGED}

    def uncharge(self, line: Line) -> int:
        resource, row = self.charges[line["args"]["charge"]]
        self.machines.resources[resource].uncharge(row, line["args"]["amount"])
        return 0

    def set_capacity(self, line: Line) -> int:
        self.machines.resources[line["args"]["resource"]].set_capacity(line["args"]["amount"])
        return 0

    def _of(self, line: Line) -> Caller:
        uid = self.uids.get(line["path"], 0)
        return Caller(uid, uid, (), self.pid(f"${line['path']}"))

    def in_process_setuid(self, line: Line) -> int:
        (self.uids[line["path"]],) = line["args"]["args"]
        return 0

    def in_process_write(self, line: Line) -> int:
        path, text = line["args"]["args"]
        return self.tree.open(f"/{path}", os.O_WRONLY, self._of(line)).write(text.encode())

    def in_process_open_setuid_write(self, line: Line) -> int:
        path, uid, text = line["args"]["args"]
        opened = self.tree.open(f"/{path}", os.O_WRONLY, self._of(line))
        self.uids[line["path"]] = uid
        return opened.write(text.encode(), self._of(line))

    def in_process_open_setuid_read(self, line: Line) -> str:
        path, uid = line["args"]["args"]
        opened = self.tree.open(f"/{path}", os.O_RDONLY, self._of(line))
        self.uids[line["path"]] = uid
        return opened.read(4096).decode()


CHANGED = POLL["POLLPRI"] | POLL["POLLERR"]


# What a process of a transcript does when told: one line of JSON in, one out.
AGENT = """
import json, os, sys
for line in sys.stdin:
    op, *args = json.loads(line)
    try:
        if op == "setuid":
            os.setgroups([]); os.setgid(args[0]); os.setuid(args[0]); result = 0
        else:
            fd = os.open(args[0], os.O_RDONLY if op == "open_setuid_read" else os.O_WRONLY)
            try:
                if op.startswith("open_setuid"):
                    os.setgroups([]); os.setgid(args[1]); os.setuid(args[1])
                result = os.read(fd, 4096).decode() if op == "open_setuid_read" else os.write(fd, args[-1].encode())
            finally:
                os.close(fd)
        print(json.dumps([0, result]), flush=True)
    except OSError as error:
        print(json.dumps([error.errno, None]), flush=True)
"""

IN = {
    "IN_MODIFY": 0x2, "IN_ATTRIB": 0x4, "IN_CLOSE_WRITE": 0x8, "IN_MOVED_TO": 0x80, "IN_CREATE": 0x100,
    "IN_DELETE": 0x200, "IN_DELETE_SELF": 0x400, "IN_IGNORED": 0x8000, "IN_ISDIR": 0x40000000,
}  # fmt: skip
PATIENCE = 20.0  # seconds; only a failing test waits so long


class AloneTarget(Target):
    """The tree mounted by FUSE, by system calls."""

    name = "alone"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="epcgroup-test-")
        self.mount = Path(self.folder.name)
        self.mount.chmod(0o755)
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close_all
        said, say = os.pipe()
        self.server = os.fork()
        if self.server == 0:
            os.close(said)
            try:
                self.serve(say, self.errors.fileno())
            finally:
                os._exit(0)
        os.close(say)
        with os.fdopen(said) as pipe:
            assert pipe.read() == "ready\n"
        self.fds: dict[str, int] = {}
        self.names: dict[str, str] = {}
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.inotify = -1
        self.watches: dict[int, str] = {}

    def tree(self) -> tuple[Tree, Machines]:
        machines = boot()
        return Tree(machines, CONTROLLERS), machines

    def serve(self, say: int, err: int) -> None:
        """A server with the recording kernel's two resources, in a fork."""
        os.dup2(err, 2)
        sys.stderr = os.fdopen(2, "w")
        tree, machines = self.tree()
        Control(tree, machines)
        fuse.serve(tree, self.mount, lambda: print("ready", file=os.fdopen(say, "w"), flush=True))
        sys.stderr.flush()

    def close_all(self) -> None:
        super().close_all()
        for fd in [*self.fds.values(), *([self.inotify] if self.inotify >= 0 else [])]:
            os.close(fd)
        os.kill(self.server, signal.SIGTERM)
        os.waitpid(self.server, 0)
        self.folder.cleanup()
        with self.errors:
            self.errors.seek(0)
            assert self.errors.read() == b""

    def run(self, line: Line) -> tuple[str | None, Any]:
        uid = line.get("uid", 0)
        groups = os.getgroups()
        if uid:
            os.setgroups([])
            os.setegid(uid)
            os.seteuid(uid)
        try:
            return super().run(line)
        finally:
            if uid:
                os.seteuid(0)
                os.setegid(0)
                os.setgroups(groups)

    def path(self, line: Line) -> str:
        return str(self.mount / line["path"])

    def fd(self, line: Line) -> int:
        return self.fds.get(line["path"], -1)

    def after(self, core: bool) -> Line:
        return {
            str(folder.relative_to(self.mount)).replace(".", "/", folder == self.mount): {
                name: self.with_names((folder / name).read_text())
                for name in os.listdir(folder)  # noqa: PTH208
                if (name in CORE_FILES[folder == self.mount :] if core else name.startswith("misc."))
            }
            for folder in [self.mount, *(path for path in self.mount.rglob("*") if path.is_dir())]
        }

    def open(self, line: Line) -> str:
        old = self.fds.pop(line["args"]["handle"], None)
        if old is not None:
            os.close(old)
        self.fds[line["args"]["handle"]] = os.open(self.path(line), flags_of(line["args"]["flags"]))
        return "ok"

    def close(self, line: Line) -> int:
        os.close(self.fds.pop(line["path"], -1))
        return 0

    def read(self, line: Line) -> str:
        return self.with_names(os.read(self.fd(line), line["args"]["count"]).decode("latin-1"))

    def pread(self, line: Line) -> str:
        return os.pread(self.fd(line), line["args"]["count"], line["args"]["offset"]).decode("latin-1")

    def write(self, line: Line) -> int:
        data = data_of(line["args"])
        done = os.write(self.fd(line), sent := self.with_pids(data))
        return done - len(sent) + len(data)

    def pwrite(self, line: Line) -> int:
        return os.pwrite(self.fd(line), data_of(line["args"]), line["args"]["offset"])

    def writev(self, line: Line) -> int:
        return os.writev(self.fd(line), [part.encode("latin-1") for part in line["args"]["data"]])

    def lseek(self, line: Line) -> int:
        return os.lseek(self.fd(line), line["args"]["offset"], getattr(os, line["args"]["whence"]))

    @contextlib.contextmanager
    def opened(self, line: Line, flags: int) -> Iterator[int]:
        fd = os.open(self.path(line), flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def write_file(self, line: Line) -> int:
        data = data_of(line["args"])
        with self.opened(line, os.O_WRONLY) as fd:
            done = os.write(fd, sent := self.with_pids(data))
        return done - len(sent) + len(data)

    def read_file(self, line: Line) -> str:
        with self.opened(line, os.O_RDONLY) as fd:
            return self.with_names(os.read(fd, 1 << 16).decode("latin-1"))

    def mkdir(self, line: Line) -> int:
        os.mkdir(self.path(line), int(line["args"]["mode"], 8))  # noqa: PTH102
        return 0

    def rmdir(self, line: Line) -> int:
        os.rmdir(self.path(line))  # noqa: PTH106
        return 0

    def listdir(self, line: Line) -> list[str]:
        return sorted(os.listdir(self.path(line)))  # noqa: PTH208

    def stat(self, line: Line) -> Line:
        found = os.stat(self.path(line))  # noqa: PTH116
        return {
            "type": "dir" if stat.S_ISDIR(found.st_mode) else "file",
            "mode": oct(found.st_mode & 0o7777),
            **{name: getattr(found, f"st_{name}") for name in ("uid", "gid", "nlink", "size", "blocks", "blksize")},
        }

    def chmod(self, line: Line) -> int:
        os.chmod(self.path(line), int(line["args"]["mode"], 8))  # noqa: PTH101
        return 0

    def chown(self, line: Line) -> int:
        os.chown(self.path(line), line["args"]["uid"], line["args"]["gid"])
        return 0

    def access(self, line: Line) -> bool:
        return os.access(self.path(line), os.W_OK, effective_ids=True)

    def truncate(self, line: Line) -> int:
        os.truncate(self.path(line), line["args"]["length"])
        return 0

    def mmap(self, line: Line) -> str:
        with self.opened(line, os.O_RDONLY) as fd:
            mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ).close()
        return "ok"

    def fsync(self, line: Line) -> int:
        with self.opened(line, os.O_RDWR) as fd:
            os.fsync(fd)
        return 0

    def flock(self, line: Line) -> int:
        with self.opened(line, os.O_RDONLY) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return 0

    def ioctl(self, line: Line) -> int:
        with self.opened(line, os.O_RDONLY) as fd:
            return len(fcntl.ioctl(fd, int(line["args"]["request"].split()[0], 0), bytes(64)))

    def getxattr(self, line: Line) -> str:
        return os.getxattr(self.path(line), line["args"]["name"]).decode()

    def setxattr(self, line: Line) -> int:
        os.setxattr(self.path(line), line["args"]["name"], line["args"]["value"].encode())
        return 0

    def listxattr(self, line: Line) -> list[str]:
        return sorted(os.listxattr(self.path(line)))

    def poll(self, line: Line) -> str:
        poll = select.poll()
        poll.register(self.fd(line), mask_of(line["args"]["events"]))
        found = poll.poll(line["args"]["timeout_ms"])
        return mask_text(found[0][1] if found else 0)

    def epoll(self, line: Line) -> str:
        with select.epoll() as epoll:
            epoll.register(self.fd(line), mask_of(line["args"]["events"]))
            found = epoll.poll(0)
        return mask_text(found[0][1] if found else 0)

    def select(self, line: Line) -> list[int]:
        fd = self.fd(line)
        readable, _, exceptional = select.select([fd], [], [fd], 0)
        return [len(readable), 0, len(exceptional)]

    def control(self, text: str) -> None:
        fd = os.open(self.mount / "epcgroup.control", os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def charge(self, line: Line) -> str:
        args = line["args"]
        name = f"{args['as']}.{time.monotonic_ns()}"
        self.control(f"charge {name} /{line['path']} {args['amount']} {args['resource']}")
        self.names[args["as"]] = name
        return "ok"

    def charge_burst(self, line: Line) -> str:
        args = {**line["args"], "as": "burst"}
        failed = sum(self.run({"op": "charge", "path": line["path"], "args": args})[0] is not None
                     for _ in range(args["times"]))  # fmt: skip
        return f"{failed} failed"

    def uncharge(self, line: Line) -> int:
        self.control(f"uncharge {self.names[line['args']['charge']]} {line['args']['amount']}")
        return 0

    def set_capacity(self, line: Line) -> int:
        self.control(f"capacity {line['args']['amount']} {line['args']['resource']}")
        return 0

    def poll_wait(self, line: Line) -> Line:
        """A poll that waits while a charge fails."""
        os.pread(self.fd(line), 4096, 0)
        poll = select.poll()
        poll.register(self.fd(line), mask_of(line["args"]["events"]))
        waited = not poll.poll(0)
        fail = {"op": "charge", "path": "a", "args": {"resource": "sgx_epc", "amount": 8192, "as": "-"}}
        later = threading.Timer(0.2, self.run, [fail])
        later.start()
        found = poll.poll(PATIENCE * 1000)
        later.join()
        return {"revents": mask_text(found[0][1] if found else 0), "woke_while_waiting": waited}

    def inotify_add_watch(self, line: Line) -> str:
        if self.inotify < 0:
            self.inotify = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = sum(IN[name] for name in line["args"]["mask"].split("|"))
        number = self.libc.inotify_add_watch(self.inotify, self.path(line).encode(), mask)
        if number < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        self.watches[number] = line["path"]
        return "ok"

    def inotify_read(self, line: Line) -> list[Line]:
        """Until there is as much as the transcript has; then a moment more."""
        found: list[Line] = []
        deadline = time.monotonic() + PATIENCE / 10
        poll = select.poll()
        poll.register(self.inotify, select.POLLIN)
        while time.monotonic() < deadline and poll.poll(50 if len(found) >= len(line["result"]) else 500):
            data = os.read(self.inotify, 1 << 16)
            while data:
                number, mask, _, length = struct.unpack_from("iIII", data)
                name = data[16 : 16 + length].rstrip(b"\0").decode()
                data = data[16 + length :]
                masks = "|".join(each for each, bit in IN.items() if mask & bit)
                found.append({"watch": self.watches[number], "mask": masks, "name": name})
        return found

    def spawn(self, line: Line) -> str:
        agent = subprocess.Popen([sys.executable, "-c", AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.processes[f"${line['args']['process']}"] = agent
        return "ok"

    def tell(self, line: Line, op: str, *args: Any) -> Any:
        agent = self.processes[f"${line['path']}"]
        assert agent.stdin is not None
        assert agent.stdout is not None
        agent.stdin.write(json.dumps([op, *args]).encode() + b"\n")
        agent.stdin.flush()
        number, result = json.loads(agent.stdout.readline())
        if number:
            raise OSError(number, errno.errorcode[number])
        return result

    def in_process_setuid(self, line: Line) -> Any:
        return self.tell(line, "setuid", *line["args"]["args"])

    def _tell_path(self, line: Line, op: str) -> Any:
        path, *rest = line["args"]["args"]
        return self.tell(line, op, str(self.mount / path), *rest)

    def in_process_write(self, line: Line) -> Any:
        return self._tell_path(line, "write")

    def in_process_open_setuid_write(self, line: Line) -> Any:
        return self._tell_path(line, "open_setuid_write")

    def in_process_open_setuid_read(self, line: Line) -> Any:
        return self._tell_path(line, "open_setuid_read")


class SubTarget(AloneTarget):
    """The same with a real directory of cgroup2 below, which stands for the root of the hierarchy."""

    name = "real"

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.real = self.stack.enter_context(real_cgroup())
        super().__init__()

    def tree(self) -> tuple[Tree, Machines]:
        machines = boot()
        tree = Passthrough(machines, os.open(self.real, os.O_RDONLY | os.O_DIRECTORY), is_root=True)
        tree.root.subtree_control.clear()
        return tree, machines

    def close_all(self) -> None:
        with self.stack:
            super().close_all()
