"""The process beside a server: it does in our own mount what the server cannot, and outlives it to unmount.

`poke`: a change that no caller made is told to inotify by a write to the file, which the server knows by its caller and
leaves without effect. `look`: now and then the root is asked for, so that the server, which has one thread, looks for
changes. It must be a process: a thread that waits in our mount would keep a killed server's /dev/fuse open, and with it
every caller waiting for ever.
"""

import contextlib
import os
import select
from pathlib import Path

from epcgroup.cgroupfs import mounts

LOOK_SECONDS = 0.05  # between two looks
BACKLOG = 64  # pokes that are carried out one by one


class Companion:
    """Forked before the mount is made, so that it holds nothing of it. `pid` is who calls."""

    def __init__(self, directory: Path, *, looking: bool) -> None:
        self._server = os.getpid()
        self._directory = directory
        listen, self._say = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                os.closerange(3, listen)
                os.closerange(listen + 1, 1 << 16)
                self._live(listen, looking)
            finally:
                os._exit(0)
        os.close(listen)

    def _send(self, word: str) -> None:
        # A full pipe: it has more to tell than anybody can hear apart. A broken one: somebody killed it.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._say, os.fsencode(word) + b"\0")

    def poke(self, path: str) -> None:
        """Tell the watchers of a file."""
        self._send(path)

    def look(self, on: bool) -> None:
        """Look now and then, or no more."""
        self._send("+" if on else "-")

    def close(self) -> None:
        """The mount has gone; so will the companion."""
        os.close(self._say)
        os.waitpid(self.pid, 0)

    # ---- the companion's own life ------------------------------------------------------------------

    def _live(self, listen: int, looking: bool) -> None:
        poll = select.poll()
        poll.register(listen, select.POLLIN)
        rest = b""
        while True:
            if not poll.poll(LOOK_SECONDS * 1000 if looking else None):
                with contextlib.suppress(OSError):
                    self._directory.stat()
                continue
            data = os.read(listen, 1 << 16)
            if not data:
                break
            *words, rest = (rest + data).split(b"\0")
            pokes = [word for word in words if word not in (b"+", b"-")]
            if len(pokes) != len(words):
                looking = [word for word in words if word in (b"+", b"-")][-1] == b"+"
            if len(pokes) > BACKLOG:
                # Once a file: who has much to tell must not keep the mount busy long after.
                pokes = [*dict.fromkeys(pokes)]
            for path in pokes:
                self._write_to(os.fsdecode(path))
        if mounts.ours().get(str(self._directory)) == f"{mounts.SOURCE}:{self._server}":
            mounts.unmount(self._directory, lazy=True)

    def _write_to(self, path: str) -> None:
        with contextlib.suppress(OSError):  # the file, or the mount, has gone since
            fd = os.open(f"{self._directory}{path}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"\n")
            finally:
                os.close(fd)
