"""A container runtime's side of NRI on a real socket, written from the protocol's numbers and not from our code.

Bytes are packed by hand here, field by field, so that a wrong number in our tables cannot agree with itself. Like Go's
multiplexer it refuses frames of more than 4096 bytes. Like a runtime it drops a plugin that answers too late.
"""

import socket
import struct
import threading
from pathlib import Path

MAX_FRAME = 4096
PATIENCE = 60


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def pb(*fields: tuple[int, object]) -> bytes:
    """A message of (number, value): bytes, text, number, or a map of texts."""
    out = b""
    for number, value in fields:
        if isinstance(value, dict):
            out += pb(*((number, pb((1, key), (2, text))) for key, text in value.items()))
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value) if value else b""
        else:
            data = value.encode() if isinstance(value, str) else bytes(value)
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def unpb(data: bytes) -> dict[int, list]:
    """number -> values, bytes or numbers."""
    fields: dict[int, list] = {}
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        key = number()
        if key & 7 == 0:
            value: object = number()
        else:
            assert key & 7 == 2, f"wire type {key & 7}"
            length = number()
            value, position = data[position : position + length], position + length
        fields.setdefault(key >> 3, []).append(value)
    return fields


def inner(data: bytes, *path: int) -> list:
    """What is at the end of a path of field numbers; empty when it is not there."""
    values: list = [data]
    for number in path:
        values = [below for value in values for below in unpb(value).get(number, [])]
    return values


def misc_max(resources: bytes) -> dict[str, str]:
    """LinuxResources.unified"""
    entries = (unpb(entry) for entry in inner(resources, 6))
    return {entry[1][0].decode(): entry[2][0].decode() for entry in entries}


def pod(
    uid: str,
    name: str = "web",
    namespace: str = "default",
    annotations: dict[str, str] | None = None,
    cgroup_parent: str = "",
) -> bytes:
    linux = pb((3, cgroup_parent), (4, f"/elsewhere/{uid}"))
    who = pb((1, f"sandbox-{uid}"), (2, name), (3, uid), (4, namespace))
    return who + pb((5, {"a": "b"}), (6, annotations or {}), (8, linux))


def container(identity: str, uid: str, name: str = "app", unified: dict[str, str] | None = None) -> bytes:
    linux = pb((3, pb((6, unified or {}))), (5, "/kubepods/x"))
    labels = {"io.kubernetes.container.name": name}
    return pb((1, identity), (2, f"sandbox-{uid}"), (3, "attempt-0"), (5, labels), (11, linux), (12, 4711))


class Closed(Exception):
    """The plugin is gone."""


class Connection:
    """One plugin, from accept on."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        peer.settimeout(PATIENCE)
        self.streams = {1: b"", 2: b""}
        self.biggest = 0
        self.stream = 1

    def close(self) -> None:
        self.peer.close()

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self.peer.recv(length - len(data))
            if not more:
                raise Closed
            data += more
        return data

    def receive(self, connection: int) -> tuple[int, int, bytes]:
        """(stream, kind, data) of the next message on a connection."""
        while True:
            stream = self.streams[connection]
            if len(stream) >= 10:
                length, number, kind, flags = struct.unpack(">IIBB", stream[:10])
                assert flags == 0
                if len(stream) >= 10 + length:
                    self.streams[connection] = stream[10 + length :]
                    return number, kind, stream[10 : 10 + length]
            where, length = struct.unpack(">II", self._exactly(8))
            assert 0 < length <= MAX_FRAME, f"a frame of {length} bytes: Go's reader would drop the plugin"
            self.biggest = max(self.biggest, length)
            self.streams[where] += self._exactly(length)

    def send(self, connection: int, stream: int, kind: int, data: bytes, piece: int = 1 << 20) -> None:
        message = struct.pack(">IIBB", len(data), stream, kind, 0) + data
        for start in range(0, len(message), piece):
            chunk = message[start : start + piece]
            self.peer.sendall(struct.pack(">II", connection, len(chunk)) + chunk)

    def request(self, connection_kind: int = 2) -> tuple[int, str, bytes]:
        """The plugin's next call: (stream, method, payload)."""
        stream, kind, data = self.receive(connection_kind)
        fields = unpb(data)
        assert (kind, fields[1]) == (1, [b"nri.pkg.api.v1alpha1.Runtime"]) and stream % 2 == 1
        return stream, fields[2][0].decode(), fields.get(3, [b""])[0]

    def respond(self, stream: int, payload: bytes = b"", code: int = 0, message: str = "") -> None:
        status = pb((1, code), (2, message)) if code else b""
        self.send(2, stream, 2, (pb((1, status)) if code else b"") + pb((2, payload)))

    def ask(self, method: str, payload: bytes = b"", piece: int = 1 << 20, service: str = "Plugin") -> None:
        request = pb((1, f"nri.pkg.api.v1alpha1.{service}"), (2, method), (3, payload), (4, 2_000_000_000))
        self.send(1, self.stream, 1, request, piece)
        self.stream += 2

    def answer(self) -> tuple[int, bytes]:
        """(code, payload) of the answer to the last `ask`."""
        stream, kind, data = self.receive(1)
        assert (stream, kind) == (self.stream - 2, 2)
        fields = unpb(data)
        code = inner(data, 1, 1)
        return (code[0] if code else 0), fields.get(2, [b""])[0]

    def call(self, method: str, payload: bytes = b"", **options: object) -> bytes:
        self.ask(method, payload, **options)
        code, data = self.answer()
        assert code == 0, f"{method}: code {code}"
        return data

    def handshake(self, pods: bytes = b"", *, late: bool = False) -> bytes:
        """Register, Configure, Synchronize; `late`: Register is answered last. What Synchronize was answered."""
        stream, method, payload = self.request()
        assert method == "RegisterPlugin"
        self.registered = {number: value[0] for number, value in unpb(payload).items()}
        if not late:
            self.respond(stream)
        configured = self.call("Configure", pb((2, "containerd"), (3, "v1.7.24"), (4, 5000), (5, 2000)))
        self.events = inner(configured, 2)[0]
        answer = self.call("Synchronize", pods)
        if late:
            self.respond(stream)
        return answer


class Runtime:
    """Listens where a runtime would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.listener: socket.socket | None = None
        self.listen()

    def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(PATIENCE)
        self.listener.bind(str(self.path))
        self.listener.listen()

    def accept(self) -> Connection:
        assert self.listener is not None
        self.connections.append(Connection(self.listener.accept()[0]))
        return self.connections[-1]

    def stop(self) -> None:
        """As when the runtime ends."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        for connection in self.connections:
            connection.close()
        self.connections.clear()
        self.path.unlink(missing_ok=True)


class Gate:
    """Holds whoever calls it until it is opened."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.open.wait(PATIENCE)
