"""The daemon: one loop that listens to clients and to their page faults; the machine decides, the pager carries out.

A turn of the loop takes what is ready, runs the reclaim works and a batch of ksgxd if they are wanted, ends the
enclaves that ended, and compares the kernel's count of the pool with ours. Clients are known by pidfd and by their
cgroup2 path when they create the enclave; nothing they say or leave unsaid makes the loop wait. Who takes more of
the pool than the machine gave is revoked: SIGBUS. A fault that the machine refuses is SIGBUS too; one that finds no
room yet is repeated, as a processor does, for as long as it takes.

`strict` asserts at every turn what always holds: usage never above a limit (or rising above one that was lowered
below it), the pool's pages exactly those of the machine.
"""

import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from epcgroup import interface
from epcgroup.errors import InputError, MachineError
from epcgroup.live import cgroups, uffd, wire
from epcgroup.live.pager import COUNTERS, MAPPED, NEW, POISONED, SEALED, STAGED, UNMAPPED, Area, Pager, Revoked
from epcgroup.live.pool import Pool, pages_of_file
from epcgroup.machine import MAX_ENCLAVE_PAGES, TP_ELDU, TP_EWB, TP_OOM, Batch, Machine, Section
from epcgroup.units import PAGE_SIZE

Series = Literal["v2", "v17"]

SO_PEERPIDFD = 77
FAULT_TRIES = 16  # a turn, of a fault that finds no room, each after all reclaim that was wanted
WAIT_SECONDS = 0.01  # until a fault that found no room is tried again
MAX_GHOSTS = 256  # of a process that makes and closes one enclave after another the oldest are forgotten
MAX_SILENT = 128  # connections without an enclave; the oldest of more is dropped


@dataclass(eq=False)
class Client:
    """A connection, and its enclave."""

    socket: socket.socket
    pid: int
    uid: int
    pidfd: int
    group: str = ""
    area: Area | None = None
    attached: bool = False
    lifeline: int = -1  # the end whose closing is SIGBUS
    revoked: bool = False


class _Ghost(NamedTuple):
    """What is kept of an enclave that ended before its process."""

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
        self.closed: dict[str, dict[str, int]] = {}  # counters of ended enclaves by group
        self.revoked = 0
        self.unserved = 0
        self.dropped = 0  # clients that broke the protocol
        self._ceiling: dict[str, int] = {}  # strict: usage may not be above
        self._next = 1
        self._lock = self._take_place()
        self._device = os.open(uffd.DEVICE, os.O_RDWR | os.O_CLOEXEC)
        self.machine = Machine([Section(0, epc_bytes // PAGE_SIZE)], series, tracing=True)
        self.pool = Pool(epc_bytes // PAGE_SIZE)
        self.pager = Pager(self.pool, pageout=pageout)
        self.pager.drain_events = self._listen_to
        self._clients: dict[int, Client] = {}  # by socket
        self._by_area: dict[str, Client] = {}
        self._by_uffd: dict[int, Client] = {}
        self._by_pidfd: dict[int, Client] = {}
        self._ghosts: list[_Ghost] = []
        self._ended: list[Client] = []  # to be released at the end of the turn
        self._late: list[tuple[Client, uffd.Message]] = []  # heard while something else was done
        self._waiting: list[tuple[Client, int]] = []  # faults that found no room: client and page
        self._ages_seen = 0
        self._ksgxd_runs = False
        self._epoll = select.epoll()
        self._listen()

    # ---- place -------------------------------------------------------------------------------------

    def _take_place(self) -> int:
        """The directory is ours as long as we live; a socket found in it is of a daemon that does not."""
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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
        self._server.bind(path)
        os.chmod(path, 0o666)  # noqa: PTH101
        self._server.listen(128)
        self._server.setblocking(False)
        self._epoll.register(self._server, select.EPOLLIN)

    def close(self) -> None:
        """End: every client's lifeline hangs up. The pool goes with its last descriptor."""
        for client in [*self._clients.values()]:
            self._end(client)
        self._release_ended()
        while self._ghosts:
            self._ghosts.pop().close()
        (self.directory / wire.SOCKET_NAME).unlink(missing_ok=True)
        self._server.close()
        self._epoll.close()
        self.pool.close()
        os.close(self._device)
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
            signal.signal(number, lambda *_: None)
        self._epoll.register(awake, select.EPOLLIN)
        self._awake = awake.fileno()
        while not self.stopped:
            self.turn()

    _awake = -1

    def turn(self, timeout: float | None = None) -> int:
        """Wait for something (at most `timeout` seconds) and deal with it; the number of things there were."""
        self.turns += 1
        if self._busy():
            timeout = 0.001 if any(area.retry for area in self.pager.areas.values()) else 0
        elif self._waiting:
            timeout = WAIT_SECONDS if timeout is None else min(timeout, WAIT_SECONDS)
        ready = self._epoll.poll(timeout, 64)
        for fd, _ in ready:
            if fd in self._by_uffd:
                self._faults(self._by_uffd[fd])
            elif fd in self._clients:
                self._hear(self._clients[fd])
            elif fd in self._by_pidfd:
                self._end(self._by_pidfd[fd])
            elif fd == self._awake:
                self.stopped = True
            elif fd == self._server.fileno():
                self._accept()
            else:
                self._hear_ghost(fd)
        while self._late:
            self._message(*self._late.pop(0))
        waiting, self._waiting = self._waiting, []
        for client, page in waiting:
            if client.area is not None and client not in self._ended and client.area.state[page] in (NEW, SEALED):
                self._serve_fault(client, client.area, page, 0)
        self._background()
        for client in self._clients.values():
            if client.area is not None and client.area.retry:
                self._put_back(client, client.area)
        self._release_ended()
        self._audit()
        return len(ready)

    def _busy(self) -> bool:
        return self._ksgxd_runs or bool(self._late) or any(area.retry for area in self.pager.areas.values())

    def _put_back(self, client: Client, area: Area) -> None:
        try:
            for page in sorted(area.retry):
                self.pager.put_back(area, page)
        except Revoked:
            self._revoke(client)

    # ---- clients -----------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            peer, _ = self._server.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                raise
            self._drop_oldest_silent()
            return
        peer.setblocking(False)
        pid, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            pidfd = peer.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        except OSError:  # it has gone already
            peer.close()
            return
        client = Client(peer, pid, uid, pidfd)
        self._clients[peer.fileno()] = client
        self._by_pidfd[pidfd] = client
        self._epoll.register(peer, select.EPOLLIN)
        # A child may hold the connection open after the process that made it.
        self._epoll.register(pidfd, select.EPOLLIN)
        if sum(c.area is None for c in self._clients.values()) > MAX_SILENT:
            self._drop_oldest_silent()

    def _drop_oldest_silent(self) -> None:
        for client in self._clients.values():
            if client.area is None and client not in self._ended:
                self.dropped += 1
                self._end(client)
                return

    def _hear(self, client: Client) -> None:
        """One packet of a client. Whatever is wrong with it ends this client only."""
        if client in self._ended:
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
                return self._create(client, packet.a)
            case wire.ATTACH:
                self._attach(client, packet)
            case wire.CLOSE:
                self._detach(client)
            case wire.STATUS:
                memory = os.memfd_create("status", os.MFD_CLOEXEC)
                os.write(memory, json.dumps(self.status()).encode())
                return wire.Packet(wire.STATUS, fds=(memory,))
            case wire.READ:
                group, _, file = packet.text.decode(errors="replace").partition("\0")
                return wire.Packet(wire.READ, text=self.machine.read(group, file).encode()[:65_000])
            case wire.WRITE:
                self._root(client)
                group, file, text = [*packet.text.decode(errors="replace").split("\0", 2), "", ""][:3]
                self.write(group, file, text)
            case wire.STOP:
                self._root(client)
                self.stopped = True
            case _:
                raise OSError(errno.ENOSYS, "op")
        return wire.Packet(packet.op)

    @staticmethod
    def _root(client: Client) -> None:
        if client.uid != 0:
            raise OSError(errno.EPERM, "not root")

    def _create(self, client: Client, size: int) -> wire.Packet:
        if client.area is not None:
            raise OSError(errno.EBUSY, "one enclave a connection")
        if not 0 < size <= MAX_ENCLAVE_PAGES * PAGE_SIZE:
            raise OSError(errno.EINVAL, "size")
        nr_pages = 1 << (-(-size // PAGE_SIZE) - 1).bit_length()
        group = cgroups.path_of(client.pid)
        signal.pidfd_send_signal(client.pidfd, 0)  # the number was still its own
        self._make_group(group)
        number, self._next = self._next, self._next + 1
        name = f"{client.pid}.{number}"
        try:
            self.machine.enclave_create(name, group, nr_pages)
        finally:
            self._carry_out()
        if self.machine.series != "v2":
            self.machine.init(name)
        client.group = group
        client.area = area = self.pager.new_area(name, number, nr_pages)
        area.pidfd = os.dup(client.pidfd)
        self._by_area[name] = client
        ours, theirs = os.pipe2(os.O_CLOEXEC)[::-1]
        client.lifeline = ours
        fds = (os.dup(area.file), os.dup(self._device), theirs)
        return wire.Packet(wire.CREATE, a=nr_pages * PAGE_SIZE, b=number, fds=fds)

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
        self._by_uffd[area.uffd] = client
        self._epoll.register(area.uffd, select.EPOLLIN)

    def _detach(self, client: Client) -> None:
        """The client closes its enclave; the connection stays until it goes."""
        if client.area is None:
            raise OSError(errno.EINVAL, "no enclave")
        self._release_area(client)

    # ---- faults ------------------------------------------------------------------------------------

    def _faults(self, client: Client) -> None:
        area = client.area
        if area is None or client in self._ended:
            return
        for message in uffd.read_messages(area.uffd):
            self._message(client, message)

    def _listen_to(self, area: Area) -> None:
        """Read an area's events while something is being done for it; faults are dealt with later in the turn."""
        client = self._by_area[area.id]
        for message in uffd.read_messages(area.uffd):
            self._late.append((client, message))

    def _message(self, client: Client, message: uffd.Message) -> None:
        area = client.area
        if message.event == uffd.EVENT_FORK:
            os.close(message.a & 0xFFFFFFFF)
        if area is None or client in self._ended:
            return
        if message.event != uffd.EVENT_FAULT:
            # fork with the mapping, mremap, munmap: what it would see could be wrong, so it sees nothing any more.
            self._revoke(client)
            return
        page = (message.b - area.address) // PAGE_SIZE
        self._serve_fault(client, area, page, message.a)

    def _hear_ghost(self, fd: int) -> None:
        """Whatever an ended enclave's mapping goes through: it need not wait for us."""
        if any(ghost.uffd == fd for ghost in self._ghosts):
            for message in uffd.read_messages(fd):
                if message.event == uffd.EVENT_FORK:
                    os.close(message.a & 0xFFFFFFFF)

    def _serve_fault(self, client: Client, area: Area, page: int, flags: int) -> None:
        try:
            self._fault(client, area, page, flags)
        except Revoked:
            self._revoke(client)

    def _fault(self, client: Client, area: Area, page: int, flags: int) -> None:
        if not 0 <= page < area.nr_pages:
            raise Revoked("a fault outside")
        state = area.state[page]
        if state in (NEW, SEALED):
            batch = self._touch_absent(area.id, page, state == NEW)
            self._carry_out()
            if client in self._ended:
                return
            if batch.stop == "EBUSY":
                self._waiting.append((client, page))
            elif batch.stop is not None:
                self.unserved += 1
                self.pager.poison(area, page)
            elif state == NEW:
                self.pager.add(area, page)
        elif state in (UNMAPPED, STAGED):
            self.machine.touch(area.id, [page])
            self.pager.touched(area, page)
        elif state == POISONED:
            self.pager.wake(area, page)
        elif flags & uffd.FLAG_WP:
            self.pager.unprotect(area, page)
        else:
            assert state == MAPPED
            self.pager.map_again(area, page)

    def _touch_absent(self, name: str, page: int, new: bool) -> Batch:
        """The machine's part of a fault in a page that is not on the EPC."""
        if new and self.machine.series == "v2":
            # v2 cannot reclaim a page that was added by a fault (EAUG) and hangs or dies of it. Here its enclaves stay
            # uninitialised, and each page is added (EADD) before its first touch.
            batch = self.machine.add_pages(name, page)
            if batch.stop is not None:
                return batch
        return self.machine.touch(name, [page], retry=FAULT_TRIES)

    def _carry_out(self) -> None:
        """Do what the machine has decided since the last time, in its order."""
        for kind, name, first, count in self.machine.drain():
            client = self._by_area.get(name)
            # The SECS (page -1) is charged and counted like any page, but holds no data here.
            if client is None or client.area is None or client in self._ended or (kind != TP_OOM and first < 0):
                continue
            try:
                if kind == TP_EWB:
                    self.pager.write_out(client.area, first, count)
                elif kind == TP_ELDU:
                    for page in range(first, first + count):
                        self.pager.load(client.area, page)
                else:
                    self._revoke(client)
            except Revoked:
                self._revoke(client)
        ages = self.machine.age_scans
        if ages != self._ages_seen:
            self._ages_seen = ages
            self._unmap_aged()

    def _unmap_aged(self) -> None:
        """Pages whose accessed bit the machine has cleared are unmapped, so that their next touch is seen."""
        for name, client in self._by_area.items():
            area = client.area
            if area is None or client in self._ended:
                continue
            pages = np.flatnonzero(self.machine.aged_pages(name) & (area.state == MAPPED))
            if len(pages):
                try:
                    self.pager.unmap(area, pages.tolist())
                except Revoked:
                    self._revoke(client)

    def _background(self) -> None:
        """Queued reclaim works, and one batch of ksgxd: clients run between two batches."""
        ksgxd, works = self.machine.woken()
        if works:
            self.machine.run_works()
            self._carry_out()
        if ksgxd or self._ksgxd_runs:
            self._ksgxd_runs = not self.machine.ksgxd(1)
            self._carry_out()

    # ---- ends --------------------------------------------------------------------------------------

    def _revoke(self, client: Client) -> None:
        """Take the enclave away: whoever maps it gets SIGBUS."""
        if client not in self._ended:
            self.revoked += 1
            client.revoked = True
            self._end(client)

    def _end(self, client: Client) -> None:
        """The client is done; released at the end of the turn, but it holds nothing of the pool from now on."""
        if client in self._ended:
            return
        self._ended.append(client)
        if client.area is not None:
            os.ftruncate(client.area.file, 0)
            client.area.in_pool = 0

    def _release_ended(self) -> None:
        while self._ended:
            client = self._ended[0]
            if client.area is not None:
                self._release_area(client)
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
        self._carry_out()
        self.machine.close(area.id)
        totals = self.closed.setdefault(client.group, dict.fromkeys(COUNTERS, 0))
        for name, count in area.counters.items():
            totals[name] += count
        if client.attached:
            # Its own copy keeps the description alive: epoll would not forget it by itself.
            self._epoll.unregister(area.uffd)
            del self._by_uffd[area.uffd]
        lifeline = client.lifeline
        if client.revoked or _has_exited(client.pidfd):
            os.close(lifeline)
            lifeline = -1
        if not _has_exited(client.pidfd):
            kept = os.dup(area.uffd) if client.attached else -1
            self._ghosts.append(_Ghost(os.dup(client.pidfd), os.dup(area.file), kept, lifeline))
            if kept >= 0:
                self._epoll.register(kept, select.EPOLLIN)
        self.pager.forget(area)
        del self._by_area[area.id]
        client.area, client.attached = None, False
        self._waiting = [(who, page) for who, page in self._waiting if who is not client]
        self._late = [(who, message) for who, message in self._late if who is not client]

    # ---- audit -------------------------------------------------------------------------------------

    def _audit(self) -> None:
        """The kernel's count against ours. More than ours: somebody writes behind our back."""
        used, ours = self.pool.used_pages(), self.pager.pages_in_pool()
        if used > ours:
            for client in list(self._by_area.values()):
                if client.area is not None and pages_of_file(client.area.file) > client.area.in_pool:
                    self._revoke(client)
            self._release_ended()
            for ghost in self._ghosts:
                os.ftruncate(ghost.file, 0)
        gone = [ghost for ghost in self._ghosts if _has_exited(ghost.pidfd)] if self._ghosts else []
        for ghost in gone or self._ghosts[:-MAX_GHOSTS]:
            self._ghosts.remove(ghost)
            if ghost.uffd >= 0:
                self._epoll.unregister(ghost.uffd)
            ghost.close()
        if self.strict:
            self._assert_exact()

    def _assert_exact(self) -> None:
        m = self.machine
        used, ours = self.pool.used_pages(), self.pager.pages_in_pool()
        assert used == ours, f"the pool has {used} pages in use, we count {ours}"
        for name, client in self._by_area.items():
            area = client.area
            assert area is not None
            mine = area.in_pool + len(area.staged)
            resident = m.resident_pages(name)
            assert mine <= resident <= mine + area.nr_poisoned, f"{name}: {mine} pages, the machine says {resident}"
        for path in m.cgroups:
            usage, limit = m.usage_bytes(path), m.limit_bytes(path)
            if limit is None:
                self._ceiling.pop(path, None)
                continue
            # A limit below usage frees nothing by itself; but from then on usage only falls.
            ceiling = self._ceiling[path] = max(limit, min(usage, self._ceiling.get(path, usage)))
            assert usage <= ceiling, f"{path} uses {usage}, may use {ceiling}"

    # ---- groups, files, status ---------------------------------------------------------------------

    def _make_group(self, path: str) -> None:
        at = ""
        for part in [part for part in path.split("/") if part]:
            at += f"/{part}"
            if at not in self.machine.cgroups:
                self.machine.mkdir(at)
                # A removed group of the same name may have had a ceiling.
                self._ceiling.pop(at, None)

    def prune(self) -> None:
        """Forget groups that the host no longer has and nobody is in."""
        mount = cgroups.mount_point()
        if mount is None:
            return
        for path in sorted(self.machine.cgroups, reverse=True):
            if path == "/" or (mount / path[1:]).exists():
                continue
            try:
                self.machine.rmdir(path)
            except MachineError as error:
                if error.errno != errno.EBUSY:
                    raise
                continue
            self.closed.pop(path, None)

    def write(self, group: str, file: str, text: str) -> None:
        """Write a misc.* file. A group that the host has but nobody used EPC in yet comes into being."""
        mount = cgroups.mount_point()
        if group not in self.machine.cgroups and mount is not None and (mount / group.lstrip("/")).is_dir():
            self._make_group(group)
        self._ceiling.pop(group, None)  # the new limit's begins with today's usage
        self.machine.write(group, file, text)
        self._carry_out()

    def counters(self, group: str) -> dict[str, int]:
        """What the enclaves of a group have done, ended ones included."""
        totals = dict(self.closed.get(group, dict.fromkeys(COUNTERS, 0)))
        for client in self._by_area.values():
            if client.group == group and client.area is not None:
                for name, count in client.area.counters.items():
                    totals[name] += count
        return totals

    def status(self) -> dict[str, Any]:
        """What `epcgroup status --json` shows. Sizes are bytes."""
        self.prune()
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
                **self.counters(path),
            }
        enclaves = [
            {
                "number": client.area.number,
                "pid": client.pid,
                "group": client.group,
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
            "pool_counted": self.pager.pages_in_pool() * PAGE_SIZE,
            "touches_seen_by": "pageout" if self.pager.pageout else "copy-out",
            "turns": self.turns,
            "revoked": self.revoked,
            "unserved": self.unserved,
            "dropped": self.dropped,
            "waiting": len(self._waiting),
            "groups": groups,
            "enclaves": enclaves,
        }


def _has_exited(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _maps(pid: int, address: int, area: Area) -> bool:
    """Does the process map the area's file there, whole? Who attached with another's userfaultfd does not."""
    inode = os.fstat(area.file).st_ino
    wanted = f"{address:x}-{address + area.nr_pages * PAGE_SIZE:x}"
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        fields = line.split()
        if fields[0].lstrip("0") == wanted:
            return int(fields[4]) == inode and fields[1].startswith("rw-s") and fields[2] == "00000000"
    return False
