"""However a client or the daemon ends: every page and charge comes back, and nobody ever reads a zero for lost data."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, PRELUDE, command, stand_until

Boot = Callable[..., Any]

CHURN = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while (seed := hear()) != "end":
    if os.fork() == 0:
        enclave = Enclave(256 * PAGE)
        m, rng = enclave.memory, random.Random(seed)
        say(os.getpid())
        while True:
            m[rng.randrange(256) * PAGE] = 1
"""


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_240_killed_clients_give_everything_back(live: Boot) -> None:
    """Six rounds of 40 clients that page all the time; every second is killed while it waits in a fault."""
    node = live(256)
    rng = random.Random(1)
    parent = node.client(CHURN, group="/g")  # which forks them
    in_a_fault = 0
    for seed in range(6):
        for n in range(40):
            parent.tell(str(40 * seed + n))
        pids = [int(parent.line()) for _ in range(40)]
        rng.shuffle(pids)
        for pid in pids:
            for _ in range(rng.randrange(4)):
                node.daemon.turn(0.01)
            if in_a_fault < 20 * (seed + 1):
                # Its memory is as large as the pool and the daemon stands still: it comes to a page that is not there.
                stand_until(lambda pid=pid: _sleeps(pid))
                in_a_fault += 1
            os.kill(pid, signal.SIGKILL)
        node.settle()
        node.assert_empty()
    assert in_a_fault == 120
    assert node.daemon.revoked == node.daemon.dropped == 0
    parent.tell("end")
    assert parent.ended() == 0


def test_a_client_that_dies_with_a_child_that_holds_its_connection_is_seen(live: Boot) -> None:
    node = live(128)
    client = node.client(
        """
enclave = Enclave(16 * PAGE)
enclave.memory[0] = 1
if os.fork() == 0:
    sys.stdin.readline()
    os._exit(0)
say("forked")
hear()
"""
    )
    assert client.line() == "forked"
    assert node.used == 1
    os.kill(client.pid, signal.SIGKILL)
    node.until(lambda: not node.daemon.status()["enclaves"])
    node.assert_empty()


def test_a_client_that_leaves_without_closing_ends_well(live: Boot) -> None:
    node = live(128)
    client = node.client("enclave = Enclave(16 * PAGE)\nenclave.memory[0] = 1\n")
    assert client.ended() == 0


def test_memory_after_close_is_given_back_while_the_process_lives(live: Boot) -> None:
    node = live(128)
    client = node.client(
        """
with Enclave(16 * PAGE) as enclave:
    enclave.memory[0] = 1
say("closed")
hear()
"""
    )
    assert client.line() == "closed"
    node.assert_empty()
    client.tell()
    assert client.ended() == 0


# ---- what the client does to its mapping ------------------------------------------------------------

WITH_LIBC = """
import ctypes, signal
libc = ctypes.CDLL(None, use_errno=True)
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
from epcgroup.live.uffd import map_shared
other = os.memfd_create("other")
os.ftruncate(other, 64 * PAGE)
elsewhere = map_shared(other, 64 * PAGE)

def view(address):
    return (ctypes.c_ubyte * (64 * PAGE)).from_address(address)

enclave = Enclave(64 * PAGE)
m = enclave.memory
for page in range(64):
    m[page * PAGE] = page + 1
say("filled")
hear()
"""


def test_fork_shares_nothing_and_harms_nothing(live: Boot) -> None:
    """The child has no such memory (SIGSEGV); the parent's pages are right, also those that were written out."""
    node = live(128)
    node.limit("/g", 32)
    client = node.client(
        WITH_LIBC
        + """
child = os.fork()
if child == 0:
    m[0]
    os._exit(0)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
say(all(m[page * PAGE] == page + 1 for page in range(64)))
""",
        group="/g",
    )
    assert client.line() == "filled"
    client.tell()
    assert client.line() == str(-signal.SIGSEGV)
    assert client.line() == "True"
    assert client.ended() == 0


@pytest.mark.parametrize(
    "change",
    [
        "m = view(libc.mremap(enclave.address, 64 * PAGE, 64 * PAGE, 3, elsewhere))",  # to a fixed address
        "m = view(libc.mremap(enclave.address, 0, 64 * PAGE, 1, None))",  # a second mapping
        "libc.munmap(enclave.address, 32 * PAGE)",
        "libc.madvise(enclave.address, 64 * PAGE, 11); os.fork() or os._exit(0)",  # MADV_DOFORK
        "libc.madvise(enclave.address, 32 * PAGE, 9)",  # MADV_REMOVE
        "libc.madvise(enclave.address, 32 * PAGE, 4)",  # MADV_DONTNEED
    ],
    ids=["mremap", "duplicate", "munmap", "fork with the mapping", "remove", "dontneed"],
)
def test_a_changed_mapping_is_refused_by_sigbus(live: Boot, change: str) -> None:
    """What it reads before the signal comes, if anything, is right."""
    node = live(128)
    node.limit("/g", 32)
    script = f"{change}\nfor page in range(32, 64): say(m[page * PAGE] == page + 1)\nhear()\n"
    client = node.client(WITH_LIBC + script, group="/g")
    assert client.line() == "filled"
    client.tell()
    assert client.ended() == -signal.SIGBUS
    assert "False" not in client.rest()
    assert node.daemon.revoked == 1


def test_exec_ends_the_enclave(live: Boot) -> None:
    node = live(128)
    client = node.client(WITH_LIBC + "os.execv(sys.executable, [sys.executable, '-c', 'print(1); input()'])\n")
    assert client.line() == "filled"
    client.tell()
    assert client.line() == "1"
    node.settle()
    node.assert_empty()
    client.tell()
    assert client.ended() == 0


# ---- the end of the daemon --------------------------------------------------------------------------


def pid_of(directory: Path) -> int:
    import json

    return int(json.loads(command(directory, "status", "--json").stdout)["pid"])


READ_ON = """
enclave = Enclave(512 * PAGE)
m = enclave.memory
for page in range(512):
    m[page * PAGE] = page % 255 + 1
say("filled")
rng = random.Random(1)
while True:
    page = rng.randrange(512)
    if m[page * PAGE] != page % 255 + 1:
        say("wrong", page, m[page * PAGE])
        os._exit(1)
"""


def test_a_killed_daemon_takes_its_clients_by_sigbus_and_leaves_nothing(directory: Path) -> None:
    """Four clients, paging hard; none ever reads anything but what it wrote. The next daemon starts as the first."""
    assert command(directory, "up", "--epc", "1028Ki").returncode == 0
    environment = {**os.environ, "EPCGROUP_RUN": str(directory)}
    clients = [
        subprocess.Popen([sys.executable, "-c", PRELUDE + READ_ON], env=environment, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    try:
        for client in clients:
            assert client.stdout is not None and client.stdout.readline() == b"filled\n"
        os.kill(pid_of(directory), signal.SIGKILL)
        assert [client.wait(timeout=PATIENCE) for client in clients] == [-signal.SIGBUS] * 4
        assert [client.stdout.read() for client in clients if client.stdout] == [b""] * 4
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(directory) not in mounts and "size=1028k" not in mounts
    refused = command(directory, "status")
    assert refused.returncode == 2 and refused.stderr.startswith(f"epcgroup: {directory}: no daemon;")
    assert command(directory, "up", "--epc", "1Mi").returncode == 0
    assert command(directory, "status").stdout.startswith("EPC pool of 1 MiB, 1 MiB free")
    assert command(directory, "down").returncode == 0


def test_exec_runs_a_command_in_a_real_group_and_takes_it_away(directory: Path) -> None:
    from epcgroup.live import cgroups

    mount = cgroups.mount_point()
    if mount is None:
        pytest.skip("no cgroup2 is mounted")
    assert command(directory, "up", "--epc", "4Mi", "--strict").returncode == 0
    group = f"/epcgroup-test-{os.getpid()}-exec"
    script = PRELUDE + (
        "with Enclave(512 * PAGE) as enclave:\n"
        "    for page in range(512): enclave.memory[page * PAGE] = 1\n"
        "    say(open('/proc/self/cgroup').read().splitlines()[-1], sum(enclave.memory[::PAGE]))\n"
        # What it leaves behind is ended too.
        "import subprocess; subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "sys.exit(3)\n"
    )
    done = command(directory, "exec", "--epc", "1Mi", "--group", group, "--", sys.executable, "-c", script)
    assert done.returncode == 3
    assert done.stdout == f"0::{group} 512\n"
    assert f"{group}: limit 1 MiB, peak 1 MiB, 512 pages added, " in done.stderr
    assert not (mount / group[1:]).exists()
    assert group not in command(directory, "status").stdout
    assert command(directory, "down").returncode == 0


def test_commands_say_in_one_line_what_is_missing(directory: Path) -> None:
    for argv in (["status"], ["limit", "/a", "4Mi"], ["down"], ["exec", "--", "true"]):
        refused = command(directory, *argv)
        assert refused.returncode == 2
        assert refused.stderr == f"epcgroup: {directory}: no daemon; epcgroup up --epc 64Mi starts one\n"


def test_up_without_root_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from epcgroup.cli.main import main

    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert main(["up", "--epc", "1Mi"]) == 2
    assert capsys.readouterr().err == "epcgroup: root: uid 65534; run as root: sudo epcgroup ...\n"


def test_a_second_daemon_in_the_same_place_is_refused(directory: Path) -> None:
    assert command(directory, "up", "--epc", "1Mi").returncode == 0
    refused = command(directory, "up", "--epc", "1Mi")
    assert refused.returncode == 2
    assert refused.stderr == f"epcgroup: {directory}: a daemon is running here; epcgroup down stops it\n"
    assert command(directory, "status").returncode == 0
    assert command(directory, "down").returncode == 0
