"""ttrpc over NRI's multiplexer, as bytes: what a container runtime and its NRI plugins say on one socket.

Outside are frames of the multiplexer, `>II` connection and length; inside, each connection is a stream of ttrpc
messages, `>IIBB` length, stream, kind, flags. Go's reader drops who sends it frames of more than 4096 bytes, so that
none leaves here. No sockets here; a peer that does not speak this raises InputError.
"""

import struct
from dataclasses import dataclass

from epcgroup.errors import InputError

MAX_CHUNK = 4096  # bytes in a frame that we send
MAX_MESSAGE = 4 << 20  # bytes in a ttrpc message
MAX_FRAME = MAX_MESSAGE + 10  # bytes in a frame that we take
PLUGIN, RUNTIME = 1, 2  # connections: on 1 the runtime calls the plugin, on 2 the plugin calls the runtime
REQUEST, RESPONSE = 1, 2

_FRAME = struct.Struct(">II")
_MESSAGE = struct.Struct(">IIBB")


@dataclass(frozen=True)
class Message:
    connection: int
    stream: int
    kind: int
    data: bytes


def packed(message: Message) -> bytes:
    """As it goes over the socket; InputError when it is larger than ttrpc carries."""
    if len(message.data) > MAX_MESSAGE:
        raise InputError(f"a message of {len(message.data)} bytes; ttrpc carries {MAX_MESSAGE}")
    data = _MESSAGE.pack(len(message.data), message.stream, message.kind, 0) + message.data
    chunks = (data[start : start + MAX_CHUNK] for start in range(0, len(data), MAX_CHUNK))
    return b"".join(_FRAME.pack(message.connection, len(chunk)) + chunk for chunk in chunks)


class Reader:
    """Bytes in, in pieces of any size; whole messages out."""

    def __init__(self) -> None:
        self._frames = bytearray()
        self._streams = {PLUGIN: bytearray(), RUNTIME: bytearray()}

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now; InputError for what is no such stream."""
        self._frames += data
        messages = []
        while len(self._frames) >= _FRAME.size:
            connection, length = _FRAME.unpack_from(self._frames)
            if connection not in self._streams or length > MAX_FRAME:
                raise InputError(f"a frame of {length} bytes for connection {connection}: this is not NRI")
            end = _FRAME.size + length
            if len(self._frames) < end:
                break
            self._streams[connection] += self._frames[_FRAME.size : end]
            del self._frames[:end]
            messages += self._whole(connection)
        return messages

    def _whole(self, connection: int) -> list[Message]:
        stream = self._streams[connection]
        messages = []
        while len(stream) >= _MESSAGE.size:
            length, number, kind, _ = _MESSAGE.unpack_from(stream)
            if length > MAX_MESSAGE:
                raise InputError(f"a message of {length} bytes; ttrpc carries {MAX_MESSAGE}")
            end = _MESSAGE.size + length
            if len(stream) < end:
                break
            messages.append(Message(connection, number, kind, bytes(stream[_MESSAGE.size : end])))
            del stream[:end]
        return messages
