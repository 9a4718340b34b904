"""`epcgroup agent` as a process: one look, a dry run, the loop with SIGTERM and SIGKILL, and what it does not load."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nri_runtime as rt
import pytest
from cgroup_nodes import MIB, Node, container, uid_of

from epcgroup.cli.main import main

SRC = Path(__file__).parent.parent.parent / "src"
PATIENCE = 60  # seconds for what takes one turn


@pytest.fixture
def config(tmp_path: Path, node: Node) -> Callable[..., Path]:
    """Writes what kubelet says now and a configuration; `config("mode = ...")` -> the file."""

    def write(*lines: str) -> Path:
        new = tmp_path / "pods.new"
        new.write_text(node.pod_list())
        new.rename(tmp_path / "pods.json")
        file = tmp_path / "agent.toml"
        own = ('source.kubelet_file = "pods.json"', f'cgroup_root = "{node.root}"', 'interval = "100ms"')
        file.write_text("\n".join([*own, *lines]) + "\n")
        return file

    return write


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start(file)` -> the agent as a process; it is gone when the test is."""
    started: list[subprocess.Popen[str]] = []

    def run(file: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "epcgroup", "agent", "--config", str(file)]
        environment = {**os.environ, "PYTHONPATH": str(SRC)}
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_one_look_prints_the_account_and_every_limit(node, config, capsys):
    pod = node.pod("web", container("app", "10Mi"))
    node.pod("pending", container("app", "5Mi"), groups=False)
    node.use(pod.path, 12 * MIB)
    assert main(["agent", "--config", str(config('mode = "enforce"', 'reserve = "8Mi"')), "--once"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "pods: 2 known, 1 with cgroups; EPC: capacity 128 MiB, claimed 15 MiB, unclaimed 105 MiB, "
        "used 12 MiB, over-claimed 2 MiB",
        "written           default/web: limit 10485760 (10 MiB), sum of its containers; was max",
        "written           default/web/app: limit 10485760 (10 MiB), claim sgx.intel.com/epc; was max",
    ]
    assert len(captured.err.splitlines()) == 2
    assert (pod.limit(), pod.limit("app")) == (str(10 * MIB), str(10 * MIB))
    assert main(["agent", "--config", str(config()), "--once"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["right", "right"]


def test_a_dry_run_writes_nothing(node, config, capsys):
    pod = node.pod("web", container("app", "10Mi"))
    assert main(["agent", "--config", str(config('mode = "enforce"')), "--once", "--dry-run"]) == 0
    assert pod.limit() == "max"
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].startswith("would be written  default/web: ")
    assert captured.err.startswith("epcgroup: would write sgx_epc 10485760 to ")


def test_another_resource_of_the_misc_controller(tmp_path, config, node, capsys):
    other = Node(tmp_path / "sev", resource="sev")
    pod = other.pod("web", container("app", "10Mi"))
    node.items = other.items
    file = config('mode = "enforce"')
    file.write_text(file.read_text().replace(str(node.root), str(other.root)))
    assert main(["agent", "--config", str(file), "--once"]) == 0
    assert "cannot be set" in capsys.readouterr().out
    assert main(["agent", "--config", str(file), "--once", "--resource", "sev"]) == 0
    assert pod.limit() == str(10 * MIB)


@pytest.mark.parametrize(
    ("lines", "words", "message"),
    [
        (['mode = "on"'], [], "mode: 'on' is no mode"),
        ([], ["--resource", "a b"], "--resource: 'a b' is no resource of the misc controller"),
        (['cgroup_root = "/proc"'], [], "not a cgroup2 tree: it has no cgroup.controllers"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(config, capsys, lines, words, message):
    file = config()
    kept = [line for line in file.read_text().splitlines() if not line.startswith(lines[0][:11] if lines else "?")]
    file.write_text("\n".join([*kept, *lines]))
    assert main(["agent", "--config", str(file), "--once", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err and captured.out == ""


@pytest.mark.parametrize("option", ["--once", "--recommend"])
def test_one_look_without_a_source_of_pods_is_no_node_without_pods(tmp_path, config, capsys, option):
    file = config('mode = "enforce"')
    (tmp_path / "pods.json").unlink()
    assert main(["agent", "--config", str(file), option]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert "pods.json: cannot be read (No such file or directory)" in captured.err


def test_a_mount_whose_name_is_no_utf8_stops_nobody(tmp_path, node, config, capsys, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(
        b"30 1 0:1 / /mnt/\xff rw - tmpfs none rw\n31 1 0:2 / %s rw - cgroup2 none rw\n" % os.fsencode(node.root)
    )
    monkeypatch.setattr("epcgroup.agent.run.MOUNTS", mounts)
    file = config()
    file.write_text("".join(line for line in file.open() if not line.startswith("cgroup_root")))
    assert main(["agent", "--config", str(file), "--once"]) == 0
    assert "capacity 128 MiB" in capsys.readouterr().out


def test_the_agent_repairs_notices_and_stops_when_it_is_told(node, config, start):
    pod = node.pod("web", container("app", "1Mi"))
    process = start(config('mode = "enforce"'))
    wait_for(lambda: pod.limit("app") == str(MIB))
    node.write(pod.path, "misc.max", "sgx_epc max")
    wait_for(lambda: pod.limit() == str(MIB))
    late = node.pod("late", container("app", "2Mi"))
    config('mode = "enforce"')
    wait_for(lambda: late.limit("app") == str(2 * MIB))
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    lines = log.splitlines()
    assert lines[0] == f"epcgroup: agent: {node.root}, sgx_epc, mode enforce, every 0.1 s"
    assert lines[-1] == "epcgroup: agent: stopped"
    assert sum("epcgroup: wrote sgx_epc " in line for line in lines) == len(lines) - 2 == 5


def test_an_agent_that_is_killed_is_followed_by_one_that_knows_as_much(node, config, start):
    pod = node.pod("web", container("app", "1Mi"))
    file = config('mode = "enforce"')
    process = start(file)
    wait_for(lambda: pod.limit("app") == str(MIB))
    process.kill()
    process.wait()
    node.write(pod.containers["app"], "misc.max", "sgx_epc max")
    follower = start(file)
    wait_for(lambda: pod.limit("app") == str(MIB))
    follower.terminate()
    _, log = follower.communicate(timeout=PATIENCE)
    assert sum("wrote" in line for line in log.splitlines()) == 1


def test_it_watches_the_api_server_and_goes_on_when_that_has_gone(node, api, endpoint, config, start, tmp_path):
    web = node.pod("web", container("app", "1Mi"))
    api.pods.put(node.items[0])
    api.nodes.put({"metadata": {"name": "node-1"}, "status": {"capacity": {}}})
    server = f'{{url = "{api.url}", token_file = "{endpoint.token_file}", ca_file = "{endpoint.ca_file}"}}'
    own = ("source.api_server = true", f"api_server = {server}", "events = true", "advertise = {}")
    file = config('mode = "enforce"', 'node = "node-1"', *own)
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "kubelet_file" not in line))
    process = start(file)
    wait_for(lambda: web.limit("app") == str(MIB))
    wait_for(lambda: api.nodes.objects["", "node-1"]["status"]["capacity"] == {"sgx.intel.com/epc": "134217728"})
    hits = itertools.count(1)

    def hit_until_it_is_said() -> bool:
        for name in ("misc.events.local", "misc.events"):  # the kernel's order
            node.write(web.path, name, f"sgx_epc.max {next(hits)}")
        return bool(api.events.objects)

    wait_for(hit_until_it_is_said)
    late = node.pod("late", container("app", "2Mi"))
    api.pods.put(node.items[1])
    wait_for(lambda: late.limit("app") == str(2 * MIB))
    api.close()
    node.write(web.path, "misc.max", "sgx_epc max")
    wait_for(lambda: web.limit() == str(MIB))
    process.terminate()
    _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "Traceback" not in log


def test_five_hundred_large_pods_leave_it_below_80_megabytes(node, api, endpoint, config, start):
    """Each of 24 kB, most of it what nobody reads; with metrics, Events and the node's status."""
    pytest.importorskip("prometheus_client")
    fields = [{"manager": "kubelet", "fieldsV1": {f"f:{i}": {f"f:{j}": {} for j in range(10)} for i in range(200)}}]
    for number in range(500):
        node.pod(f"web-{number}", container("app", "1Mi"), groups=False)
        node.items[-1]["metadata"]["managedFields"] = fields
        api.pods.put(node.items[-1])
    assert len(json.dumps(api.pods.objects["default", "web-0"])) > 24_000
    api.nodes.put({"metadata": {"name": "node-1"}, "status": {"capacity": {}}})
    server = f'{{url = "{api.url}", token_file = "{endpoint.token_file}", ca_file = "{endpoint.ca_file}"}}'
    file = config('mode = "enforce"', 'node = "node-1"', "source.api_server = true", f"api_server = {server}",
                  "events = true", "advertise = {}", 'listen = "127.0.0.1:0"')  # fmt: skip
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "kubelet_file" not in line))
    process = start(file)
    assert process.stderr is not None
    url = process.stderr.readline().split()[-1]

    def claimed() -> bool:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return "\nnode_sgx_epc_claimed_bytes 5.24288e+08\n" in answer.read().decode()

    wait_for(lambda: api.nodes.objects["", "node-1"]["status"]["capacity"] != {})
    wait_for(claimed)
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) << 10 < 80_000_000


def test_metrics_are_served_while_it_runs(node, config, start):
    pytest.importorskip("prometheus_client")
    node.pod("web", container("app", "1Mi"))
    process = start(config('listen = "127.0.0.1:0"'))
    assert process.stderr is not None
    said = process.stderr.readline()
    address = re.fullmatch(r"epcgroup: agent: metrics on (http://127\.0\.0\.1:\d+/metrics)\n", said)
    assert address is not None, said
    process.stderr.readline()

    def page() -> str:
        with urllib.request.urlopen(address[1], timeout=PATIENCE) as answer:
            return answer.read().decode()

    wait_for(lambda: 'sgx_epc_agent_drift{container="app",namespace="default",pod="web"} 1.0\n' in page())
    process.terminate()
    assert process.wait(timeout=PATIENCE) == 0


def test_containers_start_with_limits_while_it_runs(node, config, start, tmp_path):
    pytest.importorskip("prometheus_client")
    pytest.importorskip("google.protobuf")
    node.pod("web", container("app", "10Mi"))
    runtime = rt.Runtime(tmp_path / "nri.sock")
    process = start(config('mode = "enforce"', 'listen = "127.0.0.1:0"', 'nri.socket = "nri.sock"'))
    try:
        peer = runtime.accept()
        peer.handshake()
        request = rt.pb((1, rt.pod(uid_of(1))), (2, rt.container("c1", uid_of(1))))
        (resources,) = rt.inner(peer.call("CreateContainer", request), 1, 6, 2)
        assert rt.misc_max(resources) == {"misc.max": "sgx_epc 10485760"}
        assert process.stderr is not None
        said = process.stderr.readline()
        while (address := re.search(r"metrics on (http://127\.0\.0\.1:\d+/metrics)\n", said)) is None:
            said = process.stderr.readline()

        def page() -> str:
            with urllib.request.urlopen(address[1], timeout=PATIENCE) as answer:
                return answer.read().decode()

        wait_for(lambda: "sgx_epc_agent_nri_connected 1.0\n" in page())
        wait_for(lambda: 'sgx_epc_agent_limit_writes_total{result="set",target="nri"} 1.0\n' in page())
        assert 'sgx_epc_agent_capability{feature="nri"} 1.0\n' in page()
        runtime.stop()
        wait_for(lambda: "sgx_epc_agent_nri_connected 0.0\n" in page())
        assert 'sgx_epc_agent_capability{feature="nri"} 0.0\n' in page()
    finally:
        runtime.stop()
    process.terminate()
    assert process.wait(timeout=PATIENCE) == 0


def test_devices_are_offered_while_it_runs_and_taken_back_when_it_stops(node, config, start, tmp_path):
    pytest.importorskip("grpc")
    for folder in ("dev", "plugins"):
        (tmp_path / folder).mkdir()
    (tmp_path / "dev" / "sgx_enclave").touch()
    process = start(config("[device_plugin]", 'folder = "plugins"', 'devices = "dev"', "provision = 0"))
    assert process.stderr is not None
    said = {process.stderr.readline() for _ in range(2)}
    why = f"{tmp_path}/plugins/kubelet.sock: No such file or directory"
    assert f"epcgroup: device plugin: sgx.intel.com/enclave cannot be offered: {why}\n" in said
    process.terminate()
    assert process.wait(timeout=PATIENCE) == 0
    assert not list((tmp_path / "plugins").iterdir())


def test_the_agent_loads_neither_numba_nor_numpy():
    modules = ["epcgroup.cli.agent", *(
        f"epcgroup.agent.{file.stem}" for file in (SRC / "epcgroup" / "agent").glob("[a-z]*.py")
    )]  # fmt: skip
    code = (
        f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
        "print(sorted(m for m in ('numba', 'numpy', 'epcgroup.machine') if m in sys.modules))"
    )
    pytest.importorskip("prometheus_client")
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout == "[]\n"


def test_limits_are_printed_for_cri_o_as_lint_wants_them_and_as_the_agent_would_set_them(
    tmp_path, node, config, capsys
):
    file = config('mode = "enforce"')
    said = {"epcgroup.io/limit.app": "2Mi", "epcgroup.io/limit.free": "max"}
    claiming = (container(name, "1Mi") for name in ("app", "side", "free"))
    pod = node.pod("web", *claiming, annotations=said)
    node.pod("other", container("app"))
    config('mode = "enforce"')
    assert main(["agent", "--config", str(file), "--crio"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "# default/web",
        "metadata:",
        "  annotations:",
        '    unified-cgroup.crio.io/app: "misc.max=sgx_epc 2097152"  # annotation epcgroup.io/limit.app',
        '    unified-cgroup.crio.io/side: "misc.max=sgx_epc 1048576"  # claim sgx.intel.com/epc',
    ]
    assert pod.limit("app") == "max"  # nothing is written
    names = "".join(f"  - name: {name}\n" for name in ("app", "side"))
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(f"apiVersion: v1\nkind: Pod\n{out}  name: web\nspec:\n  containers:\n{names}")
    assert main(["lint", str(manifest)]) == 0
    node.items.clear()
    config()
    assert main(["agent", "--config", str(file), "--crio"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "# no container has a limit"


def test_crio_goes_with_no_other_look(config, capsys):
    assert main(["agent", "--config", str(config()), "--crio", "--once"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
