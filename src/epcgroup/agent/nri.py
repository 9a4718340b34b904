"""The NRI plugin: containers get their EPC limit from the container runtime before their first process runs.

It answers CreateContainer with misc.max for the container's OCI spec, brings the specs of containers that run already
into step (Synchronize, and after every turn of the reconciler), and keeps limits through UpdateContainer, where a
runtime writes the whole spec again. The limits are the reconciler's: same policy, modes, dry run and conditions.
A runtime goes on without a plugin that is late or away, so nothing here is ever refused: what could not be set at the
start the reconciler sets afterwards. One thread, which connects again for as long as the agent runs.
"""

import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from google.protobuf.message import DecodeError

from epcgroup.agent import ttrpc
from epcgroup.agent.config import Nri
from epcgroup.agent.messages import NRI, NRI_PACKAGE, TTRPC
from epcgroup.agent.reconcile import Once, Reconciler, Snapshot
from epcgroup.agent.tree import printable
from epcgroup.agent.ttrpc import Message, Reader
from epcgroup.errors import InputError
from epcgroup.interface import UNLIMITED
from epcgroup.manifest import cgroup_path
from epcgroup.units import quoted

MAX_MISC = "misc.max"

# What we want to be asked and told: bit (number - 1) of each event.
CREATE_CONTAINER, UPDATE_CONTAINER, REMOVE_CONTAINER = 4, 8, 11
EVENTS = sum(1 << (event - 1) for event in (CREATE_CONTAINER, UPDATE_CONTAINER, REMOVE_CONTAINER))

RETRY = 2.0  # seconds between two tries to connect
ANSWER = 10.0  # seconds that the runtime has for an answer, and for taking what we send
INVALID_ARGUMENT, UNIMPLEMENTED = 3, 12  # codes of gRPC
AWAY = "until it is there containers start without limits, and the reconciler sets them"


class Plugin:
    """`start` begins, `offer` tells of a turn, `close` ends; none of them waits for the runtime."""

    def __init__(
        self,
        agent: Reconciler,
        say: Callable[[str], None],
        config: Nri,
        *,
        retry: float = RETRY,
        answer: float = ANSWER,
    ) -> None:
        self._agent = agent
        self._say: Callable[[str], None] = lambda line: say(printable(line))  # names are the runtime's
        self._once = Once(self._say)
        self._config = config
        self._retry, self._answer = retry, answer
        self._stop = threading.Event()
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="nri", daemon=True)
        self._turn: Snapshot | None = None  # the last one, until it was looked at
        self._away = ""  # why there is no connection, once said
        self._forget()

    def _forget(self) -> None:
        """Nothing is known of a new connection."""
        self.connected = False  # whether the runtime has registered us
        self._runtime = "the runtime"
        self._specs: dict[str, str] = {}  # container id -> misc.max in the runtime's spec; empty: not known
        self._synchronized = False
        self._pieces = NRI["SynchronizeRequest"]()  # of a Synchronize that has not ended
        self._calls: dict[int, tuple[str, float, dict[str, str]]] = {}  # stream -> method, deadline, new specs
        self._next_stream = 1

    @property
    def available(self) -> bool:
        """Whether the node has a runtime with NRI."""
        return self._config.socket.exists()

    def start(self) -> None:
        self._thread.start()

    def offer(self, turn: Snapshot) -> None:
        """After a turn of the reconciler: specs that say something else than the limits follow them."""
        self._turn = turn
        self._wake()

    def close(self) -> None:
        self._stop.set()
        self._wake()
        self._thread.join(self._answer)
        self._waker.close()

    def _wake(self) -> None:
        with suppress(OSError):  # it has enough to wake up for, or has ended
            self._waker.send(b"!")

    # ---- the connection

    def _run(self) -> None:
        while not self._stop.is_set():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                try:
                    peer.settimeout(self._answer)
                    peer.connect(str(self._config.socket))
                    self._talk(peer)
                except (OSError, InputError) as error:
                    self._lost(getattr(error, "strerror", None) or str(error))
            self._forget()
            self._stop.wait(self._retry)
        self._woken.close()

    def _lost(self, why: str) -> None:
        if why != self._away:
            self._say(f"nri: {self._config.socket}: {why}; {AWAY}")
        self._away = why

    def _talk(self, peer: socket.socket) -> None:
        """Until the runtime goes or we are to stop; InputError and OSError say why it ended."""
        reader = Reader()
        register = NRI["RegisterPluginRequest"](plugin_name=self._config.name, plugin_idx=self._config.index)
        self._call(peer, "RegisterPlugin", register)
        while not self._stop.is_set():
            now = time.monotonic()
            patience = min((max(0.0, deadline - now) for _, deadline, _ in self._calls.values()), default=None)
            ready, _, _ = select.select([peer, self._woken], [], [], patience)
            if self._woken in ready:
                self._woken.recv(1 << 12)
                self._follow(peer)
            if peer in ready:
                data = peer.recv(1 << 16)
                if not data:
                    raise InputError("the runtime closed the connection")
                for message in reader.feed(data):
                    self._take(peer, message)
            for method, deadline, _ in self._calls.values():
                if deadline <= time.monotonic():
                    raise InputError(f"no answer to {method} in {self._answer:g} s")

    def _take(self, peer: socket.socket, message: Message) -> None:
        if (message.connection, message.kind) == (ttrpc.RUNTIME, ttrpc.RESPONSE):
            self._answered(message)
        elif (message.connection, message.kind) == (ttrpc.PLUGIN, ttrpc.REQUEST):
            data = self._serve(message.data).SerializeToString()
            peer.sendall(ttrpc.packed(Message(ttrpc.PLUGIN, message.stream, ttrpc.RESPONSE, data)))
        else:
            raise InputError(f"a message of kind {message.kind} on connection {message.connection}: this is not NRI")

    # ---- what we ask

    def _call(
        self, peer: socket.socket, method: str, payload: Any, specs: dict[str, str] | None = None
    ) -> None:
        request = TTRPC["Request"](
            service=f"{NRI_PACKAGE}.Runtime",
            method=method,
            payload=payload.SerializeToString(),
            timeout_nano=int(self._answer * 1e9),
        )
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._calls[stream] = method, time.monotonic() + self._answer, specs or {}
        peer.sendall(ttrpc.packed(Message(ttrpc.RUNTIME, stream, ttrpc.REQUEST, request.SerializeToString())))

    def _answered(self, message: Message) -> None:
        method, _, specs = self._calls.pop(message.stream, ("", 0.0, {}))
        try:
            response = TTRPC["Response"].FromString(message.data)
            result = NRI["UpdateContainersResponse"].FromString(response.payload)
        except DecodeError:
            raise InputError(f"an answer to {method or 'nothing'} that is no message") from None
        refused = f"{self._runtime} refuses {method}: {quoted(response.status.message, 200)}"
        if method == "RegisterPlugin":
            if response.status.code:
                raise InputError(refused)
            self.connected, self._away = True, ""
        elif method:
            if response.status.code:
                self._once(f"nri: {refused}")
                return
            failed = {update.container_id for update in result.failed}
            for identity, line in specs.items():
                if identity in failed:
                    self._once(f"nri: {self._runtime} could not set {line} in the spec of container {identity}")
                elif identity in self._specs:
                    self._specs[identity] = line

    def _follow(self, peer: socket.socket) -> None:
        """Specs that differ from what the reconciler enforces are updated: the runtime writes them again one day."""
        turn, self._turn = self._turn, None
        if turn is None or not self._synchronized or self._agent.dry_run:
            return
        self._once.next_turn()
        specs = {}
        for outcome in turn.outcomes:
            decision = outcome.decision
            identity = cgroup_path.container_of(decision.path.rpartition("/")[2]) if decision.container else None
            enforced = decision.act == "write" or (
                decision.act == "right" and self._agent.rules.mode_of(decision.namespace) == "enforce"
            )
            line = self._agent.tree.max_line(decision.wanted)
            if identity in self._specs and enforced and self._specs[identity] != line:
                specs[identity] = line
        if specs and not any(method == "UpdateContainers" for method, _, _ in self._calls.values()):
            updates = [_update(identity, line) for identity, line in specs.items()]
            self._call(peer, "UpdateContainers", NRI["UpdateContainersRequest"](update=updates), specs)

    # ---- what we are asked

    def _serve(self, data: bytes) -> Any:
        """The response to a request of the runtime's."""
        try:
            request = TTRPC["Request"].FromString(data)
        except DecodeError:
            raise InputError("a request that is no message") from None
        method = {
            "Configure": self._configure,
            "Synchronize": self._synchronize,
            "CreateContainer": self._create,
            "UpdateContainer": self._update,
            "StateChange": self._state_change,
            "Shutdown": self._shutdown,
        }.get(request.method)
        if method is None or request.service != f"{NRI_PACKAGE}.Plugin":
            # Runtimes ask for newer calls first, and fall back to StateChange upon this.
            return _error(UNIMPLEMENTED, f"{quoted(request.method)} is not served")
        try:
            return TTRPC["Response"](payload=method(request.payload).SerializeToString())
        except DecodeError:
            self._say(f"nri: {request.method} came with what is no message, and is not answered")
            # No error for CreateContainer: it would fail the container.
            return TTRPC["Response"]() if method == self._create else _error(INVALID_ARGUMENT, "no message")

    def _configure(self, payload: bytes) -> Any:
        request = NRI["ConfigureRequest"].FromString(payload)
        self._runtime = f"{request.runtime_name} {request.runtime_version}".strip()[:100] or "the runtime"
        if request.config.strip():
            self._say(f"nri: configuration from {self._runtime} is not used: the agent has its own")
        return NRI["ConfigureResponse"](events=EVENTS)

    def _synchronize(self, payload: bytes) -> Any:
        """All pods and containers that are there, in as many pieces as the runtime needs: pods do not come with their
        containers, so that all is answered with the last piece."""
        request = NRI["SynchronizeRequest"].FromString(payload)
        self._pieces.MergeFrom(request)
        if request.more:
            return NRI["SynchronizeResponse"](more=True)
        pods = {pod.id: pod for pod in self._pieces.pods}
        self._look_again(self._pieces.pods)
        updates = []
        for container in self._pieces.containers:
            spec = self._specs[container.id] = _told(container)
            pod = pods.get(container.pod_sandbox_id)
            line = self._wanted(pod, container, "gets", spec) if pod is not None else None
            if line is not None and line != spec:
                updates.append(_update(container.id, line))
        corrected = f"{len(updates)} limits corrected" if updates else "no limit to correct"
        self._say(f"nri: in step with {self._runtime}: {len(self._pieces.containers)} containers, {corrected}")
        self._synchronized = True
        self._pieces.Clear()
        return NRI["SynchronizeResponse"](update=updates)

    def _create(self, payload: bytes) -> Any:
        request = NRI["CreateContainerRequest"].FromString(payload)
        # Without a line in its spec a new group has no limit.
        spec = _told(request.container) or self._agent.tree.max_line(UNLIMITED)
        self._specs[request.container.id] = spec
        self._look_again([request.pod])
        line = self._wanted(request.pod, request.container, "starts with", spec)
        if line is None or line == spec:
            return NRI["CreateContainerResponse"]()
        resources = NRI["LinuxResources"](unified={MAX_MISC: line})
        linux = NRI["LinuxContainerAdjustment"](resources=resources)
        return NRI["CreateContainerResponse"](adjust=NRI["ContainerAdjustment"](linux=linux))

    def _update(self, payload: bytes) -> Any:
        """The runtime is about to write the container's resources; our limit goes with them."""
        request = NRI["UpdateContainerRequest"].FromString(payload)
        told = request.linux_resources.unified.get(MAX_MISC) or _told(request.container)
        spec = told or self._specs.get(request.container.id, "")
        self._specs[request.container.id] = spec
        line = self._wanted(request.pod, request.container, "gets", spec)
        if line is None or line == told:
            return NRI["UpdateContainerResponse"]()
        return NRI["UpdateContainerResponse"](update=[_update(request.container.id, line)])

    def _state_change(self, payload: bytes) -> Any:
        change = NRI["StateChangeEvent"].FromString(payload)
        if change.event == REMOVE_CONTAINER:
            self._specs.pop(change.container.id, None)
        return NRI["Empty"]()

    def _shutdown(self, payload: bytes) -> Any:
        self._say(f"nri: {self._runtime} shuts the plugin down")
        return NRI["Empty"]()

    # ---- limits

    def _look_again(self, pods: Iterable[Any]) -> None:
        """Nobody waits where nothing would be set."""
        rules = self._agent.rules
        self._agent.look_again(pod.uid for pod in pods if rules.mode_of(pod.namespace) != "observe")

    def _wanted(self, pod: Any, container: Any, verb: str, spec: str) -> str | None:
        """The line for misc.max that its spec shall have, noted as its own; None when it is left alone."""
        name = container.labels.get("io.kubernetes.container.name") or container.name
        limit = self._agent.limit_of(pod.uid, name, pod.annotations)
        mode = self._agent.rules.mode_of(pod.namespace)
        if limit is None or mode == "observe":
            return None
        line = self._agent.tree.max_line(limit.bytes)
        if line == spec:
            return line
        what = f"{pod.namespace}/{pod.name}/{name}"
        obstacle = self._agent.obstacle(pod.linux.cgroup_parent)
        if obstacle or mode == "warn" or self._agent.dry_run:
            why = obstacle or ("mode warn" if mode == "warn" else "dry run")
            self._say(f"nri: {what} does not get {line} ({limit.reason}): {why}")
            return None
        self._specs[container.id] = line
        self._agent.totals.writes["nri", "set"] += 1
        self._say(f"nri: {what} {verb} {line}: {limit.reason}; its spec {f'said {spec}' if spec else 'is not known'}")
        return line


def _told(container: Any) -> str:
    """misc.max in the container's OCI spec; empty when there is none, or the runtime (containerd 1.7) does not say."""
    return str(container.linux.resources.unified.get(MAX_MISC, ""))


def _update(identity: str, line: str) -> Any:
    linux = NRI["LinuxContainerUpdate"](resources=NRI["LinuxResources"](unified={MAX_MISC: line}))
    return NRI["ContainerUpdate"](container_id=identity, linux=linux, ignore_failure=True)


def _error(code: int, message: str) -> Any:
    return TTRPC["Response"](status=TTRPC["Status"](code=code, message=message))
