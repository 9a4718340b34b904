"""The live commands where something is wrong: names, places, a daemon that goes. One line each, nothing half done."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import LACKING, command

from epcgroup.errors import InputError
from epcgroup.live import cgroups

DETOURS = ["pod1", "/pod1/", "//pod1", "/../pod1", "/pod1/../pod2", "/./pod1", "", ".."]


def pid_of(up: str) -> int:
    return int(up.partition("pid ")[2].partition(",")[0])


@pytest.fixture
def top() -> Iterator[Path]:
    """A cgroup of the test's own, removed with those below it."""
    mount = cgroups.mount_point()
    if LACKING is not None or mount is None:
        pytest.skip(LACKING or "no cgroup2 is mounted")
    folder = mount / f"epcgroup-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    for place, _, _ in os.walk(os.fsencode(folder), topdown=False):
        Path(os.fsdecode(place)).rmdir()


@pytest.mark.parametrize("path", DETOURS)
def test_a_group_has_no_second_name(live: Callable[..., Any], path: str) -> None:
    node = live(64)
    with pytest.raises(InputError, match="is not an absolute path of a cgroup"):
        node.daemon.write(path, "misc.max", "sgx_epc 0")
    assert list(node.machine.cgroups) == ["/"]


def test_limit_says_what_is_wrong_with_a_group(directory: Path) -> None:
    assert command(directory, "up", "--epc", "1Mi").returncode == 0
    for path in DETOURS:
        refused = command(directory, "limit", "--", path, "4Mi")
        assert refused.returncode == 2
        assert refused.stderr == f'epcgroup: GROUP: "{path}" is not an absolute path of a cgroup, e.g. /pod1\n'
    refused = command(directory, "limit", "/", "4Mi")
    assert refused.stderr == "epcgroup: the root group has no limit; epcgroup up --epc is its size\n"
    refused = command(directory, "limit", "/epcgroup-no-such-group", "4Mi")
    assert refused.stderr == "epcgroup: cannot limit /epcgroup-no-such-group: No such file or directory\n"


def test_a_group_whose_name_is_no_text_is_limited_and_shown(directory: Path, top: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    (top / name).mkdir()
    assert command(directory, "up", "--epc", "1Mi").returncode == 0
    assert command(directory, "limit", f"/{top.name}/{name}", "512Ki").returncode == 0
    groups = json.loads(command(directory, "status", "--json").stdout)["groups"]
    assert groups[f"/{top.name}/{name}"]["max"] == 512 << 10
    shown = command(directory, "status")
    assert shown.returncode == 0 and f"/{top.name}/\\udcff\\udcfe  512 KiB" in shown.stdout


def test_a_group_that_no_process_may_enter_is_refused(directory: Path, top: Path) -> None:
    for name in ("threads", "beside"):
        (top / name).mkdir()
    (top / "threads" / "cgroup.type").write_text("threaded")
    assert (top / "beside" / "cgroup.type").read_text() == "domain invalid\n"
    assert command(directory, "up", "--epc", "1Mi").returncode == 0
    path = f"/{top.name}/beside"
    refused = command(directory, "exec", "--group", path, "--", "true")
    assert refused.returncode == 2
    assert refused.stderr == f"epcgroup: {path}: no process may enter it: it is threaded, or has controllers on\n"


@pytest.mark.parametrize("where", [[], ["--foreground"]])
def test_a_place_where_no_daemon_can_be_is_refused(directory: Path, where: list[str]) -> None:
    directory.write_text("a file")
    refused = command(directory, "up", "--epc", "1Mi", *where)
    directory.unlink()
    assert refused.returncode == 2 and refused.stderr.startswith(f"epcgroup: {directory}: cannot be ")
    assert refused.stderr.endswith(": File exists\n")
    deep = directory / ("d" * 100)
    for what in (["up", "--epc", "1Mi", *where], ["status"]):
        refused = command(deep, *what)
        assert refused.returncode == 2 and refused.stderr.startswith(f"epcgroup: {deep}: ")
        assert refused.stderr.endswith(": AF_UNIX path too long\n")


def test_after_down_there_is_no_daemon(directory: Path) -> None:
    for _ in range(3):
        assert command(directory, "up", "--epc", "1Mi").returncode == 0
        assert command(directory, "down").returncode == 0
        with (directory / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_command_finds_the_daemon_from_wherever_it_goes(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = directory.relative_to(tmp_path)
    assert command(place, "up", "--epc", "1Mi").returncode == 0
    ran = command(place, "exec", "--", "sh", "-c", "cd /; echo $EPCGROUP_RUN")
    assert (ran.returncode, ran.stdout) == (0, f"{directory}\n")


OUTLIVES = """
import os, select, signal, sys
from epcgroup.live.client import Enclave

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGBUS])
with Enclave(1 << 16) as enclave:
    enclave.memory[0] = 1
    os.kill(int(sys.argv[1]), signal.SIGKILL)
    signal.sigwait([signal.SIGBUS])
print("closed")
sys.exit(7)
"""


def test_the_exit_status_is_the_commands_also_when_the_daemon_dies_before_it(directory: Path) -> None:
    up = command(directory, "up", "--epc", "1Mi")
    ran = command(directory, "exec", "--", sys.executable, "-c", OUTLIVES, str(pid_of(up.stdout)))
    assert (ran.returncode, ran.stdout) == (7, "closed\n")
    no_daemon = f"{directory}: no daemon; epcgroup up --epc 64Mi starts one"
    assert ran.stderr == f"epcgroup: what it used is not known: {no_daemon}\n"


def test_the_daemon_says_in_its_log_what_ended_it(directory: Path) -> None:
    """An error after the daemon was ready goes to nobody else: what it spoke to has gone."""
    from epcgroup.cli import background

    log = directory.parent / "log"

    def serve(voice: background.Voice) -> int:
        voice.say("ready: for a moment\n")
        raise OSError(5, "a reason")

    assert background.start(serve, log) == "ready: for a moment"
    os.wait()
    assert log.read_text() == "[Errno 5] a reason\n"


SIGNALLED = """
import os, sys
from epcgroup.cli import daemon
from epcgroup.cli.main import main

set_limit = daemon.set_limit

def signalled(*words):
    os.kill(os.getpid(), int(sys.argv[1]))
    set_limit(*words)

daemon.set_limit = signalled
sys.exit(main(["exec", "--epc", "512Ki", "--", "touch", sys.argv[2]]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_before_the_command_runs_leaves_neither_group_nor_command(
    directory: Path, number: signal.Signals
) -> None:
    """It comes when the group has been made."""
    mount = cgroups.mount_point()
    if mount is None:
        pytest.skip("no cgroup2 is mounted")
    assert command(directory, "up", "--epc", "1Mi").returncode == 0
    touched = directory / "touched"
    ran = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(int(number)), str(touched)],
        env={**os.environ, "EPCGROUP_RUN": str(directory)},
        stderr=subprocess.PIPE,
        text=True,
    )
    _, said = ran.communicate()
    assert ran.returncode == 128 + number, said
    assert f"/epcgroup-exec-{ran.pid}: limit 512 KiB" in said
    assert not touched.exists()
    assert not (mount / f"epcgroup-exec-{ran.pid}").exists()
