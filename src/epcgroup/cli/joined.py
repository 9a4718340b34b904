"""The live daemon's misc controller behind a mounted tree: what is read and written goes to the daemon, by the wire.

The daemon is asked and waited for; it never waits for the mount. When it has gone the server of the mount ends too.
"""

import errno
import os
import signal
import socket

from epcgroup import interface
from epcgroup.live import wire


class Joined:
    """A controller (epcgroup.cgroupfs.controller). Paths are the host's cgroup2 paths."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._peer: socket.socket = wire.connect(directory)
        self.series: interface.Series = wire.status_of(self._ask(wire.Packet(wire.STATUS)))["series"]

    def _ask(self, packet: wire.Packet) -> wire.Packet:
        try:
            return wire.ask(self._peer, packet)
        except ConnectionError:
            self._peer.close()
        try:
            # A daemon with too many silent connections drops the oldest.
            self._peer = wire.connect(self._directory)
            return wire.ask(self._peer, packet)
        except (ConnectionError, FileNotFoundError):
            os.kill(os.getpid(), signal.SIGTERM)
            raise OSError(errno.ENODEV, "the daemon has gone") from None

    def _groups(self, words: str = "") -> int:
        return self._ask(wire.Packet(wire.GROUPS, text=os.fsencode(words))).a

    def online(self, path: str, *, fresh: bool = True) -> None:
        self._groups(f"{'+' if fresh else '='}{path}\0")

    def offline(self, path: str) -> None:
        self._groups(f"-{path}\0")

    def read(self, path: str, file: str) -> str:
        return self._ask(wire.Packet(wire.READ, text=os.fsencode(f"{path}\0{file}"))).text.decode()

    def write(self, path: str, file: str, data: bytes) -> None:
        self._ask(wire.Packet(wire.WRITE, text=os.fsencode(f"{path}\0{file}\0") + data))

    def events(self, path: str) -> tuple[int, int]:
        here = interface.read_events(self.read(path, "misc.events"))
        local = {} if self.series == "v2" else interface.read_events(self.read(path, "misc.events.local"))
        return sum(here.values()), sum(local.values())

    def refused(self) -> int:
        return self._groups()
