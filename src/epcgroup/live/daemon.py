"""The daemon: one loop that listens to clients and to their page faults (`faults` deals with those).

A turn of the loop takes what is ready, runs the reclaim works and a batch of ksgxd if they are wanted, ends the
enclaves that ended, and compares the kernel's count of the pool with ours. Clients are known by pidfd and by their
cgroup2 path, which is looked at again now and then; nothing they say or leave unsaid makes the loop wait. Who takes
more of the pool than the machine gave, or pages out of it, is revoked: SIGBUS.

`strict` asserts at every turn what always holds: usage never above a limit (or rising above one that was lowered
below it), the pool's pages exactly those of the machine.
"""

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

from epcgroup import interface
from epcgroup.errors import InputError
from epcgroup.live import cgroups, uffd, wire
from epcgroup.live.faults import Faults
from epcgroup.live.groups import Groups
from epcgroup.live.pager import IN_POOL, NEW, Area, Pager, Revoked
from epcgroup.live.pool import Pool, pages_of_file
from epcgroup.live.recording import Recording, Watch
from epcgroup.live.supervisor import Supervisor
from epcgroup.live.watch import Watchdog
from epcgroup.machine import MAX_ENCLAVE_PAGES, Machine, Section
from epcgroup.units import PAGE_SIZE

Series = Literal["mainline", "v2", "v17"]

CAP_SYS_ADMIN = 21
MAX_GHOSTS = 256  # of a process that makes and closes one enclave after another the oldest are forgotten
ADD_AT_ONCE = 64  # pages, so that nobody waits long for one who builds
MAX_SILENT_OF_ONE = 128  # connections of a user without an enclave; the oldest of more is dropped
MAX_SILENT = 1024  # of all users: with two descriptors each half of the 4,096 that a kernel allows a process by default
FOLLOW_SECONDS = 0.25  # a process that has moved to another cgroup is charged there after this time at most
WATCH_SECONDS = 2.0  # between two looks for faults without an answer


@dataclass(eq=False)
class Client:
    """A connection, and its enclave."""

    socket: socket.socket
    pid: int
    uid: int
    pidfd: int
    area: Area | None = None
    attached: bool = False
    lifeline: int = -1  # the end whose closing is SIGBUS
    ended: bool = False  # to be released at the end of the turn
    revoked: bool = False
    recording: Recording | None = None
    shows_files: bool = False  # it serves a mounted tree

    @property
    def silent(self) -> bool:
        """It may yet say what it wants."""
        return not (self.area or self.recording or self.shows_files or self.ended)


class _Ghost(NamedTuple):
    """What is kept of an enclave that ended before its process: its descriptors."""

    pidfd: int
    file: int  # the process may still write to it
    uffd: int  # an mremap that is under way waits for its second event to be read; -1: it never attached
    lifeline: int  # hangs up only now: a process that is exiting would die of SIGBUS instead; -1: it did

    def close(self) -> None:
        for fd in self:
            if fd >= 0:
                os.close(fd)


class Daemon:
    """The pool and all its clients. `turn` is one turn of the loop; `serve` turns until SIGTERM, SIGINT or STOP."""

    def __init__(
        self, directory: str, epc_bytes: int, series: Series = "v17", *, pageout: bool = True, strict: bool = False
    ) -> None:
        self.directory = Path(directory)
        self.strict = strict
        self.turns = 0
        self.stopped = False
        self.revoked = 0
        self.dropped = 0  # clients that broke the protocol
        self._next = 1
        self._lock = self._take_place()
        self._device = os.open(uffd.DEVICE, os.O_RDWR | os.O_CLOEXEC)
        self._spare = os.dup(self._device)  # a descriptor to do without when there is none
        self.machine = Machine([Section(0, epc_bytes // PAGE_SIZE)], series, tracing="ages")
        self.groups = Groups(self.machine)
        self.pool = Pool(epc_bytes // PAGE_SIZE)
        self.pager = Pager(self.pool, pageout=pageout)
        self.faults = Faults(self.machine, self.pager, lambda area: self._revoke(self._by_area[area.id]))
        if strict:
            self.faults.soft_a_turn = 1
        self.watchdog = Watchdog(self.pager, lambda line: print(f"epcgroup: {line}", file=sys.stderr, flush=True))
        self._next_follow = self._next_watch = 0.0
        self._clients: dict[int, Client] = {}  # by socket
        self._by_area: dict[str, Client] = {}
        self._by_pidfd: dict[int, Client] = {}
        self._ghosts: dict[int, _Ghost] = {}  # by pidfd, oldest first
        self._ghost_uffds: dict[int, _Ghost] = {}
        self._recordings: list[Recording] = []
        self._ended: list[Client] = []  # to be released at the end of the turn
        self._epoll = select.epoll()
        self._awake = -1  # readable after a signal
        self._supervisor = Supervisor()
        self._listen()

    # ---- place -------------------------------------------------------------------------------------

    def _take_place(self) -> int:
        """The directory is ours as long as we live; a socket found in it is of a daemon that does not."""
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"cannot be the daemon's directory: {error.strerror}", where=self.directory) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise InputError("a daemon is running here; epcgroup down stops it", where=self.directory) from None
        (self.directory / wire.SOCKET_NAME).unlink(missing_ok=True)
        return lock

    def _listen(self) -> None:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        path = str(self.directory / wire.SOCKET_NAME)
        try:
            self._server.bind(path)
        except OSError as error:  # a path that is too long has no errno
            raise InputError(f"no socket can be made here: {error.strerror or error}", where=self.directory) from error
        os.chmod(path, 0o666)  # noqa: PTH101
        self._server.listen(128)
        self._server.setblocking(False)
        self._epoll.register(self._server, select.EPOLLIN)

    def close(self) -> None:
        """End: every client's lifeline hangs up. The pool goes with its last descriptor."""
        for client in [*self._clients.values()]:
            self._end(client)
        self._release_ended()
        for ghost in [*self._ghosts.values()]:
            self._bury(ghost)
        (self.directory / wire.SOCKET_NAME).unlink(missing_ok=True)
        self._server.close()
        self._supervisor.close()
        self._epoll.close()
        self.pool.close()
        os.close(self._device)
        os.close(self._spare)
        self.groups.close()
        os.close(self._lock)

    # ---- the loop ----------------------------------------------------------------------------------

    def serve(self) -> None:
        """Turn until told to stop."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        awake, wake = socket.socketpair()
        for end in (awake, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._epoll.register(awake, select.EPOLLIN)
        self._awake = awake.fileno()
        while not self.stopped:
            self.turn()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True

    def turn(self, timeout: float | None = None) -> None:
        """Wait for something (at most `timeout` seconds) and deal with it."""
        self.turns += 1
        patience = self.faults.patience()
        if patience is not None:
            timeout = patience if timeout is None else min(timeout, patience)
        elif timeout is None and self._by_area:
            timeout = WATCH_SECONDS
        ready = self.faults.wait(self._epoll.fileno(), timeout)
        if not self.faults.pool_is_as_counted():
            explained = self._find_difference()
            assert not self.strict or explained or self.pool.used_pages() == self.pager.in_pool
        self._look_around()
        self.faults.hear()
        for fd in ready:
            if fd in self._clients:
                self._hear(self._clients[fd])
            elif fd in self._by_pidfd:
                self._end(self._by_pidfd[fd])
            elif fd == self._awake:
                os.read(fd, 64)
            elif fd != self._server.fileno():
                self._hear_ghost(fd)
        if self._server.fileno() in ready:
            self._accept()  # last: it may get the number of a ready descriptor that has been closed in this turn
        self.faults.turn()
        if self._ended:
            self._release_ended()
        if self.strict:
            self._assert_exact()

    # ---- clients -----------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            peer, _ = self._server.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                raise
            if not self._drop_silent():
                self._hang_up()
            return
        peer.setblocking(False)
        pid, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            pidfd = peer.getsockopt(socket.SOL_SOCKET, uffd.SO_PEERPIDFD)
        except OSError:  # it has gone already
            peer.close()
            return
        client = Client(peer, pid, uid, pidfd)
        self._clients[peer.fileno()] = client
        self._by_pidfd[pidfd] = client
        self._epoll.register(peer, select.EPOLLIN)
        # A child may hold the connection open after the process that made it.
        self._epoll.register(pidfd, select.EPOLLIN)
        silent = Counter(other.uid for other in self._clients.values() if other.silent)
        if silent[uid] > MAX_SILENT_OF_ONE or silent.total() > MAX_SILENT:
            self._drop_silent()

    def _hang_up(self) -> None:
        """No descriptor is left for who connects: end the connection, else it would be ready for ever."""
        os.close(self._spare)
        with contextlib.suppress(BlockingIOError):  # it has gone meanwhile
            self._server.accept()[0].close()
            self.dropped += 1
        self._spare = os.dup(self._device)

    def _drop_silent(self) -> bool:
        """End the oldest silent connection of the user who has most. Is there one?"""
        silent = [client for client in self._clients.values() if client.silent]
        if not silent:
            return False
        uid = Counter(client.uid for client in silent).most_common(1)[0][0]
        self.dropped += 1
        self._end(next(client for client in silent if client.uid == uid))
        return True

    def _hear(self, client: Client) -> None:
        """One packet of a client. Whatever is wrong with it ends this client only."""
        if client.ended:
            return
        try:
            packet = wire.receive(client.socket)
        except BlockingIOError:
            return
        except (wire.BadPacket, OSError):
            self.dropped += 1
            self._end(client)
            return
        if packet is None:
            self._end(client)
            return
        try:
            answer = self._answer(client, packet)
        except OSError as error:
            answer = wire.Packet(packet.op, error.errno or errno.EIO)
        except InputError:
            answer = wire.Packet(packet.op, errno.EINVAL)
        finally:
            for fd in packet.fds:
                os.close(fd)
        try:
            wire.send(client.socket, answer)
        except OSError:  # it does not read, or has gone
            self.dropped += 1
            self._end(client)
        finally:
            for fd in answer.fds:
                # The file of an area stays ours; its number was duplicated for the answer.
                os.close(fd)
        if answer.errno and packet.op == wire.ATTACH:
            self._end(client)

    def _answer(self, client: Client, packet: wire.Packet) -> wire.Packet:
        match packet.op:
            case wire.CREATE:
                return self._create(client, packet.a, packet.b)
            case wire.ATTACH:
                self._attach(client, packet)
            case wire.ADD:
                return wire.Packet(wire.ADD, a=self._add(client, packet.a, packet.b))
            case wire.INIT:
                self._init(client)
            case wire.CLOSE:
                self._detach(client)
            case wire.STATUS:
                memory = os.memfd_create("status", os.MFD_CLOEXEC)
                os.write(memory, json.dumps(self.status()).encode())
                return wire.Packet(wire.STATUS, fds=(memory,))
            case wire.READ:
                group, _, file = os.fsdecode(packet.text).partition("\0")
                return wire.Packet(wire.READ, text=self.machine.read(group, file).encode()[:65_000])
            case wire.WRITE:
                self._root(client)
                group, file, text = [*os.fsdecode(packet.text).split("\0", 2), "", ""][:3]
                self.write(group, file, text)
            case wire.GROUPS:
                if packet.text:
                    self._root(client)
                    client.shows_files = True
                for word in os.fsdecode(packet.text).split("\0"):
                    if word[:1] in ("-", "+") and word[1:] in self.machine.cgroups:
                        self.groups.drop(word[1:])
                    if word[:1] in ("=", "+"):
                        cgroups.check_path(word[1:])
                        self.groups.make(word[1:])
                return wire.Packet(wire.GROUPS, a=self.machine.refusals)
            case wire.STOP:
                self._root(client)
                self.stopped = True
            case wire.RECORD:
                self._root(client)
                self._record(client, packet)
            case wire.LISTENER:
                self._root(client)
                if len(packet.fds) != 2:
                    raise OSError(errno.EINVAL, "listener")
                self._supervisor.take(packet.fds)
            case _:
                raise OSError(errno.ENOSYS, "op")
        return wire.Packet(packet.op)

    @staticmethod
    def _root(client: Client) -> None:
        if client.uid != 0 or not _administers(client.pid):
            raise OSError(errno.EPERM, "not root")
        signal.pidfd_send_signal(client.pidfd, 0)  # the number was still its own

    def _create(self, client: Client, size: int, to_be_built: int) -> wire.Packet:
        if client.area is not None:
            raise OSError(errno.EBUSY, "one enclave a connection")
        if not 0 < size <= MAX_ENCLAVE_PAGES * PAGE_SIZE:
            raise OSError(errno.EINVAL, "size")
        nr_pages = 1 << (-(-size // PAGE_SIZE) - 1).bit_length()
        group = cgroups.path_of(client.pid)
        signal.pidfd_send_signal(client.pidfd, 0)  # the number was still its own
        self.groups.make(group)
        number, self._next = self._next, self._next + 1
        name = f"{client.pid}.{number}"
        area = self.pager.new_area(name, number, nr_pages)
        opened = [area.file]
        try:
            opened += os.pipe2(os.O_CLOEXEC)
            for fd in (client.pidfd, area.file, self._device):
                opened.append(os.dup(fd))
            self.machine.enclave_create(name, group, nr_pages)
        except OSError:
            self.pager.forget(area)
            for fd in opened:
                os.close(fd)
            raise
        finally:
            self.faults.carry_out()
        if self.machine.series != "v2" and not to_be_built:
            self.machine.init(name)
        _, theirs, client.lifeline, area.pidfd, file, device = opened
        client.area = area
        self.groups.join(area, client.pid, group)
        self._by_area[name] = client
        for recording in self._recordings:
            self._watch(client, recording)
        return wire.Packet(wire.CREATE, a=nr_pages * PAGE_SIZE, b=number, fds=(file, device, theirs))

    def _attach(self, client: Client, packet: wire.Packet) -> None:
        area = client.area
        if area is None or client.attached or len(packet.fds) != 1:
            raise OSError(errno.EINVAL, "attach")
        fd = packet.fds[0]
        if str(Path(f"/proc/self/fd/{fd}").readlink()) != "anon_inode:[userfaultfd]" or packet.a % PAGE_SIZE:
            raise OSError(errno.EINVAL, "attach")
        uffd.enable(fd)
        uffd.register(fd, packet.a, area.nr_pages * PAGE_SIZE)
        if not _maps(client.pid, packet.a, area):
            raise OSError(errno.EINVAL, "attach: that is not the enclave's file")
        area.uffd, area.address = os.dup(fd), packet.a
        client.attached = True
        self.faults.attach(area)
        self._epoll.register(area.uffd, select.EPOLLIN)

    def _add(self, client: Client, first: int, count: int) -> int:
        """EADD of pages of zeros: how many; fewer than asked for when there is no room for more yet."""
        area = client.area
        if area is None or not first + count <= area.nr_pages:
            raise OSError(errno.EINVAL, "add")
        for page in range(first, first + min(count, ADD_AT_ONCE)):
            if area.state[page] != NEW:
                raise OSError(errno.EEXIST, "add")
            batch = self.machine.add_pages(area.id, page, measure=True)
            self.faults.carry_out()
            if batch.stop == "EBUSY" or area.ended:
                return page - first
            if batch.stop is not None:
                raise OSError(getattr(errno, batch.stop), "add")
            self.pager.stage(area, page)
        return min(count, ADD_AT_ONCE)

    def _init(self, client: Client) -> None:
        if client.area is None:
            raise OSError(errno.EINVAL, "no enclave")
        if self.machine.series != "v2":
            self.machine.init(client.area.id)

    def _detach(self, client: Client) -> None:
        """The client closes its enclave; the connection stays until it goes."""
        if client.area is None:
            raise OSError(errno.EINVAL, "no enclave")
        self._release_area(client)

    # ---- recordings --------------------------------------------------------------------------------

    def _record(self, client: Client, packet: wire.Packet) -> None:
        """Begin a recording; without a descriptor: end it."""
        if not packet.fds:
            if client.recording is None:
                raise OSError(errno.EINVAL, "no recording")
            failed = self._end_recording(client, client.recording)
            if failed:
                raise OSError(failed, "write")
            return
        if client.recording is not None:
            raise OSError(errno.EBUSY, "one recording a connection")
        client.recording = Recording(packet.fds[0], os.fsdecode(packet.text), packet.a)
        self._recordings.append(client.recording)
        for other in self._by_area.values():
            self._watch(other, client.recording)

    def _watch(self, client: Client, recording: Recording) -> None:
        """A recording looks at an enclave as long as its process is in the recording's group."""
        area = client.area
        if area is None or client.ended:
            return
        if not recording.covers(self.groups.of(area)):
            area.watches.pop(recording, None)
        elif recording not in area.watches:
            try:
                area.watches[recording] = Watch(recording, self.pager, area).fault
            except Revoked:
                self._revoke(client)
        self.faults.set_watched(area)

    def _end_recording(self, client: Client, recording: Recording) -> int:
        client.recording = None
        self._recordings.remove(recording)
        for area in self.pager.areas.values():
            area.watches.pop(recording, None)
            self.faults.set_watched(area)
        return recording.close()

    # ---- ends --------------------------------------------------------------------------------------

    def _revoke(self, client: Client) -> None:
        """Take the enclave away: whoever maps it gets SIGBUS."""
        if not client.ended:
            self.revoked += 1
            client.revoked = True
            self._end(client)

    def _end(self, client: Client) -> None:
        """The client is done; released at the end of the turn, but it holds nothing of the pool from now on."""
        if client.ended:
            return
        client.ended = True
        self._ended.append(client)
        if client.area is not None:
            self.pager.empty(client.area)

    def _hear_ghost(self, fd: int) -> None:
        """The process has exited; or its mapping goes through something, and need not wait for us."""
        if fd in self._ghosts:
            self._bury(self._ghosts[fd])
        elif fd in self._ghost_uffds:
            try:
                for event, a, _, _ in uffd.read_messages(fd):
                    if event == uffd.EVENT_FORK:
                        os.close(a & 0xFFFFFFFF)
            except OSError:  # EMFILE, and that will not change by asking again
                self._bury(self._ghost_uffds[fd])

    def _release_ended(self) -> None:
        while self._ended:
            client = self._ended[0]
            if client.area is not None:
                self._release_area(client)
            if client.recording is not None:
                self._end_recording(client, client.recording)
            self._epoll.unregister(client.socket)
            self._epoll.unregister(client.pidfd)
            del self._clients[client.socket.fileno()]
            del self._by_pidfd[client.pidfd]
            client.socket.close()
            os.close(client.pidfd)
            del self._ended[0]

    def _release_area(self, client: Client) -> None:
        area = client.area
        assert area is not None
        self.faults.carry_out()
        self.groups.leave(area)
        self.machine.close(area.id)
        if client.revoked:
            os.close(client.lifeline)
            client.lifeline = -1
        if not area.ended:
            self.pager.empty(area)
        self.pager.forget(area)
        self.faults.forget(area)
        if client.attached:
            self.faults.detach(area)
        del self._by_area[area.id]
        self._keep_ghost(_Ghost(area.pidfd, area.file, area.uffd, client.lifeline))
        client.area, client.attached = None, False

    def _keep_ghost(self, ghost: _Ghost) -> None:
        self._ghosts[ghost.pidfd] = ghost
        if ghost.uffd >= 0:
            self._ghost_uffds[ghost.uffd] = ghost
        self._epoll.register(ghost.pidfd, select.EPOLLIN)
        if len(self._ghosts) > MAX_GHOSTS:
            self._bury(next(iter(self._ghosts.values())))

    def _bury(self, ghost: _Ghost) -> None:
        del self._ghosts[ghost.pidfd]
        self._epoll.unregister(ghost.pidfd)
        if ghost.uffd >= 0:
            # The process's own copy keeps the description alive: epoll would not forget it by itself.
            self._epoll.unregister(ghost.uffd)
            del self._ghost_uffds[ghost.uffd]
        ghost.close()

    # ---- audit -------------------------------------------------------------------------------------

    def _find_difference(self) -> bool:
        """Revoke who has written to the file or removed pages from it behind our back. Was there one?"""
        found = False
        for client in list(self._by_area.values()):
            if client.area is not None and pages_of_file(client.area.file) != client.area.in_pool:
                found = True
                self._revoke(client)
        for ghost in self._ghosts.values():
            found = found or pages_of_file(ghost.file) > 0
            os.ftruncate(ghost.file, 0)
        return found

    def _assert_exact(self) -> None:
        assert self.pager.in_pool == sum(area.in_pool for area in self.pager.areas.values())
        for name, client in self._by_area.items():
            area = client.area
            assert area is not None
            assert area.in_pool == sum(bytes(area.state).count(state) for state in IN_POOL)
            mine = area.in_pool + len(area.staged)
            resident = self.machine.resident_pages(name)
            assert mine <= resident <= mine + area.nr_poisoned, f"{name}: {mine} pages, the machine says {resident}"
        self.groups.assert_within_limits()

    # ---- files, status -----------------------------------------------------------------------------

    def _look_around(self) -> None:
        """What nobody tells us, now and then: who has moved to another cgroup, and faults without an answer."""
        now = time.monotonic()
        if now < self._next_follow and now < self._next_watch:
            return
        if now >= self._next_follow:
            self._next_follow = now + FOLLOW_SECONDS
            self.follow()
        if now >= self._next_watch:
            self._next_watch = now + WATCH_SECONDS
            self.watchdog.look(self.faults.waiting)

    def follow(self) -> None:
        """Who has moved to another cgroup is charged there, and watched by the recordings of that group."""
        for name in self.groups.follow():
            for recording in self._recordings:
                self._watch(self._by_area[name], recording)

    def write(self, group: str, file: str, text: str) -> None:
        """Write a misc.* file, and carry out what follows. InputError."""
        self.follow()
        self.groups.write(group, file, text)
        self.faults.carry_out()

    def status(self) -> dict[str, Any]:
        """What `epcgroup status --json` shows. Sizes are bytes."""
        self.follow()
        self.groups.prune()
        m = self.machine
        groups = {}
        for path in sorted(m.cgroups):
            files = {name: m.read(path, name) for name in m.files(path)}
            peak = interface.read_values(files.get("misc.peak", "")).get(interface.EPC)
            groups[path] = {
                "max": m.limit_bytes(path),
                "current": m.usage_bytes(path),
                "peak": peak,
                "refused": m.refused_charges(path),
                **self.groups.counters(path),
            }
        enclaves = [
            {
                "number": client.area.number,
                "pid": client.pid,
                "group": self.groups.of(client.area),
                "size": client.area.nr_pages * PAGE_SIZE,
                "in_pool": client.area.in_pool * PAGE_SIZE,
                **client.area.counters,
            }
            for client in self._by_area.values()
            if client.area is not None
        ]
        return {
            "pid": os.getpid(),
            "series": m.series,
            "epc": m.capacity_bytes,
            "free": m.free_pages * PAGE_SIZE,
            "pool_used": self.pool.used_pages() * PAGE_SIZE,
            "pool_counted": self.pager.in_pool * PAGE_SIZE,
            "touches_seen_by": "pageout" if self.pager.pageout else "copy-out",
            "turns": self.turns,
            "revoked": self.revoked,
            "unserved": self.faults.unserved,
            "dropped": self.dropped,
            "waiting": len(self.faults.waiting),
            "stalled": self.watchdog.stalled,
            "recordings": len(self._recordings),
            "file_servers": [client.pid for client in self._clients.values() if client.shows_files],
            "groups": groups,
            "enclaves": enclaves,
        }


def _maps(pid: int, address: int, area: Area) -> bool:
    """Does the process map the area's file there, whole? Who attached with another's userfaultfd does not."""
    inode = os.fstat(area.file).st_ino
    wanted = f"{address:x}-{address + area.nr_pages * PAGE_SIZE:x}"
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        fields = line.split()
        if fields[0].lstrip("0") == wanted:
            return int(fields[4]) == inode and fields[1].startswith("rw-s") and fields[2] == "00000000"
    return False


def _administers(pid: int) -> bool:
    """Has it CAP_SYS_ADMIN here? A container's uid 0 has not, and may have our socket."""
    if not Path(f"/proc/{pid}/ns/user").samefile("/proc/self/ns/user"):
        return False
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["CapEff"], 16) >> CAP_SYS_ADMIN & 1)
