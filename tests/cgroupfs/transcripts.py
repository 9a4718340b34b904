"""Replays transcripts of the real misc controller (Linux 7.3 with a resource sgx_epc) against a tree of ours.

A transcript is JSON lines: an operation, its result or errno, and the misc.* files afterwards ("same" in our sample
where they are as before). `replay` yields what differs, less what docs/reference/files-exceptions.md excepts.
"""

import fnmatch
import json
import lzma
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from epcgroup.cgroupfs.controller import Machines
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

    lines: str  # a pattern of "ID OP", `*` for anything
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
        name = f"{line['id']} {line['op']}"
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
        self.machines = boot()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.charges: dict[str, tuple[str, int]] = {}
        self.uids: dict[str, int] = {}

    def run(self, line: Line) -> tuple[str | None, Any]:
        """(errno or None, result)."""
        import errno

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
            process.wait()


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
