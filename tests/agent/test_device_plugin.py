"""The device plugin against a kubelet of real gRPC, its messages packed by hand: offered, given out, offered again."""

import queue
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("grpc", reason="needs grpcio (pip install 'epcgroup[agent]')")

import grpc
from nri_runtime import inner, pb, unpb

from epcgroup.agent.config import DevicePlugins
from epcgroup.agent.device_plugin import Plugin

PATIENCE = 60


class Kubelet:
    """Registration served, plugins dialled, as kubelet does: a start empties the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registrations: queue.Queue[dict[int, list]] = queue.Queue()
        self.refuse = ""
        self.server: grpc.Server | None = None
        self.channels: list[grpc.Channel] = []

    def start(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()
        self.server = grpc.server(ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(self.register)
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler}),)
        )
        self.server.add_insecure_port(f"unix:{self.folder}/kubelet.sock")
        self.server.start()

    def register(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if self.refuse:
            context.abort(grpc.StatusCode.UNAVAILABLE, self.refuse)
        self.registrations.put(unpb(request))
        return b""

    def stop(self) -> None:
        for channel in self.channels:
            channel.close()
        self.channels.clear()
        if self.server is not None:
            self.server.stop(None).wait(PATIENCE)
            self.server = None

    def next(self) -> str:
        """The endpoint of the resource that registers next."""
        return self.registrations.get(timeout=PATIENCE)[2][0].decode()

    def dial(self, endpoint: str) -> grpc.Channel:
        self.channels.append(grpc.insecure_channel(f"unix:{self.folder}/{endpoint}"))
        return self.channels[-1]

    def call(self, endpoint: str, method: str, request: bytes = b"") -> bytes:
        call = self.dial(endpoint).unary_unary(f"/v1beta1.DevicePlugin/{method}")
        return call(request, timeout=PATIENCE, wait_for_ready=True)

    def watch(self, endpoint: str) -> Iterator[dict[str, str]]:
        """id -> health, as often as the plugin says it."""
        call = self.dial(endpoint).unary_stream("/v1beta1.DevicePlugin/ListAndWatch")
        for answer in call(b"", timeout=PATIENCE, wait_for_ready=True):
            devices = (unpb(device) for device in inner(answer, 1))
            yield {device[1][0].decode(): device[2][0].decode() for device in devices}


@pytest.fixture
def kubelet(tmp_path) -> Iterator[Kubelet]:
    folder = tmp_path / "dp"
    folder.mkdir()
    kubelet = Kubelet(folder)
    yield kubelet
    kubelet.stop()


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    folder = tmp_path / "dev"
    folder.mkdir()
    for name in ("sgx_enclave", "sgx_provision"):
        (folder / name).touch()
    return folder


@pytest.fixture
def start(kubelet, dev) -> Iterator[Callable[..., list[str]]]:
    """`start(enclave=3)` -> its log."""
    plugins = []

    def run(**counts: int) -> list[str]:
        lines: list[str] = []
        config = DevicePlugins({"enclave": 0, "provision": 0, **counts}, kubelet.folder, dev)
        plugins.append(Plugin(config, lines.append, look=0.02))
        plugins[-1].start()
        return lines

    yield run
    for plugin in plugins:
        plugin.close()
        assert not plugin._thread.is_alive()
    assert not list(kubelet.folder.glob("epcgroup-*"))  # also with a watch open


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_each_resource_registers_with_a_socket_of_its_own(kubelet, start):
    kubelet.start()
    lines = start(enclave=3, provision=2)
    both = [kubelet.registrations.get(timeout=PATIENCE) for _ in range(2)]
    assert [{number: values for number, values in one.items() if number < 4} for one in both] == [
        {1: [b"v1beta1"], 2: [b"epcgroup-enclave.sock"], 3: [b"sgx.intel.com/enclave"]},
        {1: [b"v1beta1"], 2: [b"epcgroup-provision.sock"], 3: [b"sgx.intel.com/provision"]},
    ]
    wait_for(lambda: len(lines) == 2)
    assert lines == [
        "device plugin: sgx.intel.com/enclave: 3 registered with kubelet",
        "device plugin: sgx.intel.com/provision: 2 registered with kubelet",
    ]


def test_a_resource_whose_count_is_zero_is_not_offered(kubelet, start):
    kubelet.start()
    start(provision=1)
    assert kubelet.next() == "epcgroup-provision.sock"
    assert [file.name for file in kubelet.folder.glob("epcgroup-*")] == ["epcgroup-provision.sock"]


def test_devices_are_listed_and_given_out(kubelet, start):
    kubelet.start()
    start(provision=3)
    endpoint = kubelet.next()
    assert kubelet.call(endpoint, "GetDevicePluginOptions") == b""
    ids = [f"sgx-provision-{number}" for number in range(3)]
    assert next(kubelet.watch(endpoint)) == dict.fromkeys(ids, "Healthy")
    two = pb((1, pb((1, ids[0]), (1, ids[1])))) + pb((1, pb((1, ids[2]))))
    device = pb((1, "/dev/sgx_provision"), (2, "/dev/sgx_provision"), (3, "rw"))
    answer = kubelet.call(endpoint, "Allocate", two)
    assert [unpb(container) for container in inner(answer, 1)] == [{3: [device]}, {3: [device]}]


def test_a_device_that_was_never_offered_is_refused(kubelet, start):
    kubelet.start()
    lines = start(enclave=1)
    endpoint = kubelet.next()
    wait_for(lambda: lines)
    with pytest.raises(grpc.RpcError) as refusal:
        kubelet.call(endpoint, "Allocate", pb((1, pb((1, "sgx\nx")))))
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert lines[-1] == "device plugin: sgx.intel.com/enclave has no device 'sgx\\nx'"


@pytest.mark.parametrize(
    ("method", "request_bytes", "code"),
    [("Allocate", b"\xff\xff", "INVALID_ARGUMENT"), ("PreStartContainer", b"", "UNIMPLEMENTED")],
)
def test_what_cannot_be_answered_leaves_the_plugin_as_it_was(kubelet, start, method, request_bytes, code):
    kubelet.start()
    start(enclave=1)
    endpoint = kubelet.next()
    with pytest.raises(grpc.RpcError) as refusal:
        kubelet.call(endpoint, method, request_bytes)
    assert refusal.value.code().name == code
    assert next(kubelet.watch(endpoint)) == {"sgx-enclave-0": "Healthy"}


def test_a_device_that_goes_is_unhealthy_until_it_is_back(kubelet, start, dev):
    kubelet.start()
    start(enclave=1)
    watch = kubelet.watch(kubelet.next())
    assert next(watch) == {"sgx-enclave-0": "Healthy"}
    (dev / "sgx_enclave").unlink()
    assert next(watch) == {"sgx-enclave-0": "Unhealthy"}
    (dev / "sgx_enclave").touch()
    assert next(watch) == {"sgx-enclave-0": "Healthy"}


def test_a_node_without_the_device_offers_nothing_until_it_is_there(kubelet, start, dev):
    (dev / "sgx_enclave").unlink()
    kubelet.start()
    lines = start(enclave=1)
    wait_for(lambda: lines)
    assert lines == [f"device plugin: sgx.intel.com/enclave is not offered: there is no {dev}/sgx_enclave"]
    assert kubelet.registrations.empty()
    (dev / "sgx_enclave").touch()
    assert kubelet.next() == "epcgroup-enclave.sock"


def test_it_waits_for_kubelet_and_registers_again_when_kubelet_restarts(kubelet, start):
    lines = start(enclave=2)
    wait_for(lambda: lines)
    why = f"{kubelet.folder}/kubelet.sock: No such file or directory"
    assert lines == [f"device plugin: sgx.intel.com/enclave cannot be offered: {why}"]
    kubelet.start()
    endpoint = kubelet.next()
    watch = kubelet.watch(endpoint)
    assert len(next(watch)) == 2
    for _ in range(2):
        kubelet.stop()
        kubelet.start()
        endpoint = kubelet.next()
        assert len(next(kubelet.watch(endpoint))) == 2


def test_a_kubelet_that_refuses_is_asked_again_and_named_once(kubelet, start):
    kubelet.refuse = "not yet"
    kubelet.start()
    lines = start(enclave=1)
    wait_for(lambda: lines)
    kubelet.refuse = ""
    assert kubelet.next() == "epcgroup-enclave.sock"
    wait_for(lambda: len(lines) == 2)
    assert lines[0] == "device plugin: kubelet does not register sgx.intel.com/enclave: 'not yet'"


def test_a_folder_that_takes_no_socket_is_one_line(kubelet, start):
    kubelet.start()
    (kubelet.folder / "epcgroup-enclave.sock").mkdir()
    lines = start(enclave=1)
    wait_for(lambda: lines)
    time.sleep(0.1)
    assert len(lines) == 1 and lines[0].startswith("device plugin: sgx.intel.com/enclave cannot be offered: ")
    shutil.rmtree(kubelet.folder / "epcgroup-enclave.sock")
    assert kubelet.next() == "epcgroup-enclave.sock"


def test_watches_that_kubelet_has_left_do_not_use_the_plugin_up(kubelet, start):
    kubelet.start()
    start(enclave=1)
    endpoint = kubelet.next()
    for _ in range(12):
        watch = kubelet.watch(endpoint)
        assert next(watch)
        watch.close()
        kubelet.channels.pop().close()
    assert kubelet.call(endpoint, "GetDevicePluginOptions") == b""


