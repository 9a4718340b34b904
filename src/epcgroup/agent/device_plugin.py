"""The device plugin: pods that claim sgx.intel.com/enclave or /provision get /dev/sgx_enclave or /dev/sgx_provision.

A resource is a gRPC server on a socket of its own in kubelet's folder, registered with kubelet; kubelet forgets plugins
and removes their sockets when it starts, so that both are looked after as long as the agent runs. A resource counts how
many containers may have the device at once: the device itself is shared, and EPC is no device (docs/guides/agent.md).
A resource is offered from when its device is first there; a device that goes makes it unhealthy.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import grpc
from google.protobuf.message import DecodeError

from epcgroup.agent.config import DevicePlugins
from epcgroup.agent.messages import DEVICE_PLUGIN as MESSAGES
from epcgroup.agent.tree import printable
from epcgroup.units import quoted

VERSION = "v1beta1"
KUBELET = "kubelet.sock"
LOOK = 1.0  # seconds between two looks at kubelet's socket, our own, and the devices
ANSWER = 5.0  # seconds that kubelet has to answer
WORKERS = 8  # of a resource: kubelet's one watch, its calls, and watches of before that have not ended
OPTIONS = (("grpc.enable_http_proxy", 0),)

_Signature = tuple[int, int]  # number and time of kubelet's socket


class Resource:
    """One resource: its server and what kubelet asks of it."""

    def __init__(self, config: DevicePlugins, kind: str, count: int, say: Callable[[str], None]) -> None:
        self.name = f"sgx.intel.com/{kind}"
        self._folder, self._say, self._said = config.folder, say, ""
        self._device, self._node = f"/dev/sgx_{kind}", config.devices / f"sgx_{kind}"
        self._ids = [f"sgx-{kind}-{number}" for number in range(count)]
        self.socket = config.folder / f"epcgroup-{kind}.sock"
        self._server: grpc.Server | None = None
        self._registered: _Signature | None = None  # with which kubelet
        self._healthy = False
        self._changed = threading.Condition()

    def look(self) -> None:
        """Serve, register and notice what changed, as far as that is possible now."""
        healthy = self._node.exists()
        if healthy != self._healthy:
            with self._changed:
                self._healthy = healthy
                self._changed.notify_all()
        if not healthy and self._server is None:
            self._once(f"{self.name} is not offered: there is no {self._node}")
            return
        try:
            kubelet = _signature(self._folder / KUBELET)
            if self._server is None or not self.socket.exists():
                self._serve()
        except OSError as error:
            self._registered = None
            self._once(f"{self.name} cannot be offered: {error.filename}: {error.strerror}")
            return
        except RuntimeError as error:  # what gRPC raises where it cannot listen
            self._once(f"{self.name} cannot be offered: {quoted(str(error), 200)}")
            return
        if kubelet != self._registered and self._register():
            self._registered = kubelet
            self._once(f"{self.name}: {len(self._ids)} registered with kubelet")

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait(ANSWER)
            self._server = None
            self._registered = None
            with suppress(FileNotFoundError):
                self.socket.unlink()

    def _once(self, line: str) -> None:
        if line != self._said:
            self._say(printable(f"device plugin: {line}"))
        self._said = line

    def _serve(self) -> None:
        self.stop()
        with suppress(FileNotFoundError):
            self.socket.unlink()
        server = grpc.server(ThreadPoolExecutor(WORKERS), options=OPTIONS)
        # Requests come as bytes: what gRPC cannot decode it would log with a traceback.
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(self._options),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(self._list_and_watch),
            "Allocate": grpc.unary_unary_rpc_method_handler(self._allocate),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(f"{VERSION}.DevicePlugin", handlers),)
        )
        server.add_insecure_port(f"unix:{self.socket}")
        server.start()
        self._server, self._registered = server, None

    def _register(self) -> bool:
        request = MESSAGES["RegisterRequest"](
            version=VERSION,
            endpoint=self.socket.name,
            resource_name=self.name,
            options=MESSAGES["DevicePluginOptions"](),
        )
        with grpc.insecure_channel(f"unix:{self._folder / KUBELET}", options=OPTIONS) as channel:
            register = channel.unary_unary(
                f"/{VERSION}.Registration/Register",
                request_serializer=MESSAGES["RegisterRequest"].SerializeToString,
                response_deserializer=MESSAGES["Empty"].FromString,
            )
            try:
                register(request, timeout=ANSWER)
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                why = error.details() or error.code().name
                self._once(f"kubelet does not register {self.name}: {quoted(why, 200)}")
                return False
        return True

    # ---- what kubelet asks

    def _options(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """No preferences, nothing to do before a container starts."""
        return b""

    def _list_and_watch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """All devices at once, and again whenever their health has changed, until kubelet goes."""
        sent = None
        while context.is_active():
            with self._changed:
                if sent is self._healthy:
                    self._changed.wait(LOOK)
                healthy = self._healthy
            if sent is not healthy:
                sent = healthy
                health = "Healthy" if healthy else "Unhealthy"
                devices = [MESSAGES["Device"](ID=identity, health=health) for identity in self._ids]
                yield MESSAGES["ListAndWatchResponse"](devices=devices).SerializeToString()

    def _allocate(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        device = MESSAGES["DeviceSpec"](container_path=self._device, host_path=self._device, permissions="rw")
        try:
            containers = MESSAGES["AllocateRequest"].FromString(request).container_requests
        except DecodeError:
            self._refuse(context, f"{self.name}: Allocate came with what is no message")
        for container in containers:
            for identity in container.devices_ids:
                if identity not in self._ids:
                    self._refuse(context, f"{self.name} has no device {quoted(identity)}")
        answer = MESSAGES["ContainerAllocateResponse"](devices=[device])
        answers = MESSAGES["AllocateResponse"](container_responses=[answer] * len(containers))
        return bytes(answers.SerializeToString())

    def _refuse(self, context: grpc.ServicerContext, line: str) -> NoReturn:
        self._once(line)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, line)


class Plugin:
    """All resources, looked after by one thread. `start` begins, `close` ends."""

    def __init__(self, config: DevicePlugins, say: Callable[[str], None], *, look: float = LOOK) -> None:
        self._resources = [Resource(config, kind, count, say) for kind, count in config.counts.items() if count]
        self._look = look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="device-plugin", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2 * ANSWER)

    def _run(self) -> None:
        while not self._stop.is_set():
            for resource in self._resources:
                resource.look()
            self._stop.wait(self._look)
        for resource in self._resources:
            resource.stop()


def _signature(file: Path) -> _Signature:
    """Another one after kubelet has made its socket again."""
    status = file.stat()
    return status.st_ino, status.st_ctime_ns
