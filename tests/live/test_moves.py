"""A process that moves to another cgroup is charged there from then on; groups come and go under living enclaves."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import command

from epcgroup.live import cgroups, daemon, wire
from epcgroup.units import PAGE_SIZE

Boot = Callable[..., Any]

IN_STEPS = """
with Enclave(128 * PAGE) as enclave:
    m = enclave.memory
    say("made")
    for first, last in iter(lambda: tuple(map(int, hear().split())), ()):
        for page in range(first, last):
            m[page * PAGE] = 1
        say("touched")
"""


INSIDE = """
from epcgroup.live.client import Enclave

with Enclave(4096):
    print("made")
"""


def pages_in(node: Any, path: str) -> int:
    return int(node.machine.usage_bytes(path)) // PAGE_SIZE


@pytest.mark.parametrize("series", ["v17", "v2"])
def test_what_a_moved_process_faults_in_later_is_charged_where_it_is(
    live: Boot, monkeypatch: pytest.MonkeyPatch, series: str
) -> None:
    monkeypatch.setattr(daemon, "FOLLOW_SECONDS", 0)
    node = live(256, series=series)
    old, new = node.path("/old"), node.path("/new")
    client = node.client(IN_STEPS, group="/old")
    assert client.line() == "made"
    client.tell("0 20")
    assert client.line() == "touched"
    assert pages_in(node, old) == 22  # with SECS and VA page
    (node.group("/new").folder / "cgroup.procs").write_text(str(client.pid))
    client.tell("10 50")
    assert client.line() == "touched"
    assert pages_in(node, old) == 22 and pages_in(node, new) == 30
    assert node.daemon.groups.counters(old)["added"] == 20 and node.daemon.groups.counters(new)["added"] == 30
    assert node.daemon.status()["enclaves"][0]["group"] == new
    client.tell()
    assert client.ended() == 0
    node.settle()
    assert node.daemon.groups.counters(old)["added"] == 20 and node.daemon.groups.counters(new)["added"] == 30


def test_the_limit_of_the_new_group_holds_and_the_old_ones_pages_stay(
    live: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "FOLLOW_SECONDS", 0)
    node = live(256)
    node.limit("/new", 16)
    client = node.client(IN_STEPS, group="/old")
    assert client.line() == "made"
    client.tell("0 20")
    assert client.line() == "touched"
    (node.group("/new").folder / "cgroup.procs").write_text(str(client.pid))
    client.tell("20 120")
    assert client.line() == "touched"
    assert pages_in(node, node.path("/old")) == 22
    assert 0 < pages_in(node, node.path("/new")) <= 16
    client.tell()
    assert client.ended() == 0


def test_a_move_is_seen_without_any_fault_when_the_status_is_asked_for(live: Boot) -> None:
    node = live(256)
    client = node.client(IN_STEPS, group="/old")
    assert client.line() == "made"
    (node.group("/new").folder / "cgroup.procs").write_text(str(client.pid))
    assert node.daemon.status()["enclaves"][0]["group"] == node.path("/new")
    client.tell()
    assert client.ended() == 0


def test_a_group_that_is_removed_under_its_charges_goes_when_they_do(
    live: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host lets a group go that nobody is in; its pages stay charged to the parent, and are paged as any."""
    monkeypatch.setattr(daemon, "FOLLOW_SECONDS", 0)
    node = live(256)
    node.limit("/pod", 64)
    old = node.group("/pod/old")
    client = node.client(IN_STEPS, group="/pod/old")
    assert client.line() == "made"
    client.tell("0 20")
    assert client.line() == "touched"
    (node.group("/pod").folder / "cgroup.procs").write_text(str(client.pid))
    old.folder.rmdir()
    assert old.path not in node.daemon.status()["groups"]
    assert pages_in(node, node.path("/pod")) == 22
    client.tell("0 100")
    assert client.line() == "touched"
    assert pages_in(node, node.path("/pod")) <= 64
    again = cgroups.Group(old.path)
    try:
        node.daemon.write(old.path, "misc.max", "sgx_epc 8192")
        assert pages_in(node, old.path) == 0 and node.machine.limit_bytes(old.path) == 8192
    finally:
        again.close()
    client.tell()
    assert client.ended() == 0
    node.settle()
    assert pages_in(node, node.path("/pod")) == 0


def test_a_process_whose_group_cannot_be_made_goes_on_where_it_was(live: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    from epcgroup import machine

    node = live(256)
    client = node.client(IN_STEPS, group="/old")
    assert client.line() == "made"
    monkeypatch.setattr(machine, "MAX_CGROUPS", 1)
    (node.group("/new").folder / "cgroup.procs").write_text(str(client.pid))
    assert node.daemon.status()["enclaves"][0]["group"] == node.path("/old")
    client.tell("0 20")
    assert client.line() == "touched"
    assert pages_in(node, node.path("/old")) == 22
    monkeypatch.undo()
    client.tell()
    assert client.ended() == 0


def test_a_group_made_again_has_nothing_of_the_one_before(live: Boot) -> None:
    """A container that is started again in a cgroup of the same name begins without the old one's limit."""
    node = live(256)
    node.limit("/pod", 64)
    path = node.path("/pod/a")
    node.limit("/pod/a", 16)
    for limited in (True, False):
        client = node.client(IN_STEPS, group="/pod/a")
        assert client.line() == "made"
        client.tell("0 40")
        assert client.line() == "touched"
        assert (pages_in(node, path) <= 16) == limited
        assert (node.machine.limit_bytes(path) is not None) == limited
        client.tell()
        assert client.ended() == 0
        node.settle()
        node.group("/pod/a").folder.rmdir()
        node.group("/pod/a").folder.mkdir()
    assert node.machine.limit_bytes(node.path("/pod")) == 64 * PAGE_SIZE


def test_groups_that_come_and_go_do_not_pile_up(live: Boot) -> None:
    """A host whose containers all have groups of their own, and where nobody asks for the status."""
    from epcgroup.live.groups import PRUNE_AFTER

    node = live(64)
    pod = node.group("/pod")
    for i in range(2 * PRUNE_AFTER):
        folder = pod.folder / str(i)
        folder.mkdir()
        node.daemon.write(f"{pod.path}/{i}", "misc.max", "sgx_epc 65536")
        folder.rmdir()
    assert len(node.machine.cgroups) <= PRUNE_AFTER + 2 * 3  # three are there
    assert f"{pod.path}/{2 * PRUNE_AFTER - 1}" in node.machine.cgroups


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/\n", "/"),
        ("9:name=systemd:/a\n4:memory:/b\n0::/pod1/c\n", "/pod1/c"),
        ("0::/pod1 (deleted)\n", "/pod1"),
        ("0::/..pod\n", "/..pod"),
        ("4:memory:/b\n", "/"),
        ("", "/"),
    ],
)
def test_the_cgroup2_path_is_the_one_of_hierarchy_0(text: str, path: str) -> None:
    assert cgroups.path_in(text) == path


@pytest.mark.parametrize("path", ["/..", "/../pod1", "/../../pod1 (deleted)"])
def test_a_path_out_of_the_cgroup_namespace_is_einval(path: str) -> None:
    with pytest.raises(OSError) as refusal:
        cgroups.path_in(f"0::{path}\n")
    assert refusal.value.errno == errno.EINVAL


def test_a_daemon_makes_no_enclave_for_one_outside_of_its_cgroup_namespace(directory: Path) -> None:
    if cgroups.mount_point() is None:
        pytest.skip("no cgroup2 is mounted")
    group = cgroups.Group(f"/epcgroup-test-{os.getpid()}-inside")

    def run_in_it(*argv: str) -> str:
        environment = {**os.environ, "EPCGROUP_RUN": str(directory)}
        ran = subprocess.run(
            argv, preexec_fn=group.enter, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return ran.stdout

    try:
        run_in_it("unshare", "--cgroup", sys.executable, "-m", "epcgroup", "up", "--epc", "1Mi")
        with wire.connect(str(directory)) as daemon:
            with pytest.raises(OSError) as refusal:
                wire.ask(daemon, wire.Packet(wire.CREATE, a=PAGE_SIZE))
            assert refusal.value.errno == errno.EINVAL
            status = wire.status_of(wire.ask(daemon, wire.Packet(wire.STATUS)))
        assert list(status["groups"]) == ["/"] and status["enclaves"] == []
        assert run_in_it(sys.executable, "-c", INSIDE) == "made\n"
    finally:
        command(directory, "down")
        group.close()
