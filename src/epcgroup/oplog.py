"""An op log in, result lines out: the machine as a replayer (spec/oplog.md has the vocabulary and the format).

One process is one machine and the first op must be `node`. Everything is deterministic. `Replayer.line` answers
one line of the log; `state` is the dump of everything the ring knows. Left out of nothing: whatever the format
shows is shown here.
"""

import errno
import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from epcgroup.errors import MachineError, errno_name
from epcgroup.kernel import structs
from epcgroup.machine import COUNTERS, Batch, Machine, MachineDead, Section

Op = dict[str, Any]
Runs = list[list[Any]]

MAX_PAGES = 1 << 20  # of an enclave or a virtual EPC
MAX_EPC_PAGES = 1 << 28  # of a machine: 1 TiB
MAX_RETRY = 1_000_000

_MISSING: Any = object()


class _Refused(Exception):
    """The op answers this errno name."""


def _runs(pages: Iterable[tuple[str, int]]) -> Runs:
    """[id, first, length] runs of ascending pages."""
    runs: Runs = []
    for name, page in pages:
        if runs and runs[-1][0] == name and page == runs[-1][1] + runs[-1][2] and page >= 0:
            runs[-1][2] += 1
        else:
            runs.append([name, page, 1])
    return runs


def _ranges(mask: np.ndarray) -> list[list[int]]:
    """Inclusive [a, b] ranges of the set positions."""
    at = np.flatnonzero(mask)
    if not len(at):
        return []
    breaks = np.flatnonzero(np.diff(at) > 1)
    starts = at[np.concatenate(([0], breaks + 1))]
    ends = at[np.concatenate((breaks, [len(at) - 1]))]
    return [[int(a), int(b)] for a, b in zip(starts, ends, strict=True)]


class Replayer:
    """Replays an op log on one machine of the given series.

    `ledger=False` replays on a machine without the ledger: the same results but for what that machine does not know
    (`va`, `backing`, `place`, `free_list`, the backing_* counters), and without `poison`.
    """

    def __init__(self, series: str = "v17", *, ledger: bool = True) -> None:
        self.series = series
        self.ledger = ledger
        self.machine: Machine | None = None
        self.auto_work = False
        self.auto_ksgxd = False
        self._number = 0
        self._dead = False
        self._counters = np.zeros(len(COUNTERS), np.int64)

    def line(self, text: str) -> Op | None:
        """The result of one line; None for an empty line or a comment."""
        self._number += 1
        text = text.strip()
        if not text or text.startswith("#"):
            return None
        result: Op = {"n": self._number, "op": "?"}
        try:
            op = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError):
            op = None
        if not isinstance(op, dict):
            return {**result, "ok": False, "errno": "EBADMSG"}
        name = op.get("op")
        if isinstance(name, str):
            result["op"] = name
        if self._dead:
            return {**result, "ok": False, "errno": "DEAD"}
        return self._run(result["op"], op, result)

    def _run(self, name: str, op: Op, result: Op) -> Op:
        method = _OPS.get(name)
        error: str | None = None
        if self.machine is not None:
            self.machine.signal(bool(op.get("signal", False)))
        try:
            if method is None:
                raise _Refused("EOPNOTSUPP")
            if name != "node" and self.machine is None:
                raise _Refused("ENODEV")
            if name == "node" and self.machine is not None:
                raise _Refused("EINVAL")
            error = method(self, op, result)
        except _Refused as refusal:
            error = str(refusal)
        except MachineError as refusal:
            assert refusal.errno is not None
            error = errno_name(refusal.errno)
        except MachineDead as death:
            error = death.cause
        m = self.machine
        if m is not None and error not in ("OOPS", "HANG"):
            injected = bool(m.k.g.signal_injected)
            m.k.g.signal = 0
            try:
                self._background()
            except MachineDead as death:
                error = death.cause
            self._report(result, error, injected)
        else:
            _finish(result, error)
        self._dead = error in ("OOPS", "HANG")
        return result

    def _background(self) -> None:
        m = self.machine
        assert m is not None
        m.settle()
        if self.auto_work:
            m.run_works()
        if self.auto_ksgxd and m.ksgxd_woken:
            m.ksgxd()

    def _report(self, result: Op, error: str | None, injected: bool) -> None:
        """What changed during the op: counters, pages moved, warnings, works, kills."""
        m = self.machine
        assert m is not None
        _finish(result, error)
        now = m.k.counters[: len(COUNTERS)].copy()
        changed = {name: int(d) for name, d in zip(COUNTERS, now - self._counters, strict=True) if d}
        self._counters = now
        if changed:
            result["d"] = changed
        written: Runs = []
        loaded: Runs = []
        killed: list[str] = []
        for kind, name, first, n in m.drain():
            if kind == structs.TP_OOM:
                killed.append(name)
                continue
            runs = written if kind == structs.TP_EWB else loaded
            if first < 0:
                runs.append([f"{name}:SECS", -1, 1])
            elif runs and runs[-1][0] == name and runs[-1][1] + runs[-1][2] == first:
                runs[-1][2] += n
            else:
                runs.append([name, first, n])
        if written:
            result["ewb"] = written
        if loaded:
            result["eldu"] = loaded
        g = m.k.g
        if g.nr_warned:
            result["warn"] = [structs.WARNINGS[(int(g.warned) >> (4 * i)) & 15] for i in range(int(g.nr_warned))]
            g.warned = g.nr_warned = 0
        if m.woke():
            result["woke"] = True
        if injected:
            result["signal_injected"] = True
        pending = m.pending_works()
        if pending:
            result["pending"] = pending
        if killed:
            result["oom"] = [name for name in _by_process(m) if name in killed]

    # ---- ops: each answers an errno name or None, and may put fields into the result -------------

    def op_node(self, op: Op, result: Op) -> str | None:
        rows = op.get("sections")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return "EINVAL"
        sections = [Section(_int(row, "node", 0), _int(row, "pages")) for row in rows]
        if sum(section.nr_pages for section in sections) > MAX_EPC_PAGES:
            return "EINVAL"
        series: Any = self.series
        self.machine = Machine(
            sections,
            series,
            sgx2=bool(op.get("sgx2", True)),
            tracing=True,
            ledger=self.ledger,
            patience=_int(op, "k_sig", 1000),
        )
        self.auto_work = bool(op.get("auto_work", False))
        self.auto_ksgxd = bool(op.get("auto_ksgxd", False))
        return None

    def _m(self) -> Machine:
        assert self.machine is not None
        return self.machine

    def op_mkdir(self, op: Op, result: Op) -> None:
        self._m().mkdir(_text(op, "path"))

    def op_rmdir(self, op: Op, result: Op) -> None:
        self._m().rmdir(_text(op, "path"))

    def op_write(self, op: Op, result: Op) -> None:
        # What no file can hold (half a surrogate pair) is no limit either.
        text = _text(op, "text").encode("utf-8", "replace").decode()
        self._m().write(_text(op, "path"), _text(op, "file"), text)

    def op_read(self, op: Op, result: Op) -> None:
        result["text"] = self._m().read(_text(op, "path"), _text(op, "file"))

    def op_enclave_create(self, op: Op, result: Op) -> None:
        self._m().enclave_create(_text(op, "id"), _text(op, "cgroup", "/"), _size(op, 4096), _home(op))

    def op_add_page(self, op: Op, result: Op) -> str | None:
        m, name = self._m(), _text(op, "id")
        measure, kind = bool(op.get("measure", False)), op.get("type", "reg")
        # A type that ADD_PAGES does not take is refused as a range outside the enclave is.
        first = _int(op, "page", 0) if kind in ("reg", "tcs") else -1
        count = _int(op, "count", 1)
        return _batch(result, lambda: m.add_pages(name, first, count, measure=measure, tcs=kind == "tcs"))

    def op_init(self, op: Op, result: Op) -> None:
        self._m().init(_text(op, "id"))

    def op_touch(self, op: Op, result: Op) -> str | None:
        m, name = self._m(), _text(op, "id")
        flags = {"access": bool(op.get("access", True)), "accept": op["op"] == "accept"}
        return _touches(result, op, lambda pages, retry: m.touch(name, pages, retry=retry, **flags))

    def op_trim(self, op: Op, result: Op) -> str | None:
        return _batch(result, lambda: self._m().trim(_text(op, "id"), _int(op, "page", 0), _int(op, "count", 1)))

    def op_tcs(self, op: Op, result: Op) -> str | None:
        return _batch(result, lambda: self._m().make_tcs(_text(op, "id"), _int(op, "page", 0), _int(op, "count", 1)))

    def op_restrict(self, op: Op, result: Op) -> str | None:
        return _batch(result, lambda: self._m().restrict(_text(op, "id"), _int(op, "page", 0), _int(op, "count", 1)))

    def op_remove(self, op: Op, result: Op) -> str | None:
        return _batch(result, lambda: self._m().remove(_text(op, "id"), _int(op, "page", 0), _int(op, "count", 1)))

    def op_run(self, op: Op, result: Op) -> None:
        self._m().run(_text(op, "id"), bool(op.get("on", True)))

    def op_fork(self, op: Op, result: Op) -> None:
        self._m().fork(_text(op, "id"), _text(op, "child"))

    def op_migrate(self, op: Op, result: Op) -> None:
        self._m().migrate(_text(op, "id"), _text(op, "cgroup"))

    def op_close(self, op: Op, result: Op) -> None:
        self._m().close(_text(op, "id"))

    def op_vepc_open(self, op: Op, result: Op) -> None:
        self._m().vepc_open(_text(op, "id"), _text(op, "cgroup", "/"), _size(op, 1024), _home(op))

    def op_vepc_fault(self, op: Op, result: Op) -> str | None:
        m, name = self._m(), _text(op, "id")
        return _touches(result, op, lambda pages, retry: m.vepc_fault(name, pages, retry=retry))

    def op_vepc_close(self, op: Op, result: Op) -> None:
        self._m().vepc_close(_text(op, "id"))

    def op_vepc_migrate(self, op: Op, result: Op) -> None:
        self._m().vepc_migrate(_text(op, "id"), _text(op, "cgroup"))

    def op_vepc_guest(self, op: Op, result: Op) -> None:
        role = _text(op, "role")
        if role not in ("secs", "child", "free"):
            raise _Refused("EINVAL")
        name = _text(op, "id")
        self._m().vepc_guest(
            name, _int(op, "page", 0), role, _text(op, "secs_id", name), _int(op, "secs_page", 0)
        )

    def op_vepc_remove_all(self, op: Op, result: Op) -> None:
        result["failures"] = self._m().vepc_remove_all(_text(op, "id"))

    def op_poison(self, op: Op, result: Op) -> None:
        section, page = _int(op, "section"), _int(op, "page")
        try:
            self._m().poison(section, page)
        except MachineError:
            raise _Refused("EINVAL") from None  # the log's numbers name no page

    def op_ksgxd(self, op: Op, result: Op) -> None:
        m = self._m()
        if m.ksgxd_woken or not op.get("if_woken", False):
            m.ksgxd()

    def op_work(self, op: Op, result: Op) -> None:
        self._m().run_works()

    def op_state(self, op: Op, result: Op) -> None:
        result["state"] = state(self._m(), summary=bool(op.get("summary", False)), full=bool(op.get("full", False)))


_OPS: dict[str, Callable[[Replayer, Op, Op], str | None]] = {
    name.removeprefix("op_"): getattr(Replayer, name) for name in dir(Replayer) if name.startswith("op_")
}
_OPS["accept"] = Replayer.op_touch


def _finish(result: Op, error: str | None) -> None:
    result["ok"] = error is None
    if error is not None:
        result["errno"] = error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _text(op: Op, key: str, default: Any = _MISSING) -> str:
    value = op.get(key, default)
    if not isinstance(value, str):
        raise _Refused("EINVAL")
    return value


def _int(op: Op, key: str, default: Any = _MISSING) -> int:
    value = op.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Refused("EINVAL")
    return value


def _size(op: Op, default: int) -> int:
    """Pages of an enclave or a virtual EPC. Too many are handed on as none: the machine refuses them in its turn."""
    pages = _int(op, "pages", default)
    return pages if pages <= MAX_PAGES else 0


def _home(op: Op) -> int | None:
    """The NUMA node a task runs on."""
    return None if op.get("node") is None else _int(op, "node")


def _touches(result: Op, op: Op, call: Callable[[np.ndarray, int], Batch]) -> str | None:
    """Touch the pages of an op, in order."""
    retry = _int(op, "retry", 0)
    if retry > MAX_RETRY:
        raise _Refused("EINVAL")
    pages = op.get("pages")
    again = 0
    if pages is None:
        first, count, step = _int(op, "page", 0), _int(op, "count", 1), _int(op, "step", 1)
        if step == 0 and count > 1:
            # Touching a page that is mapped by now changes nothing any more.
            count, again = 1, count - 1
        # No batch goes on behind the first page that is outside.
        pages = [first + step * i for i in range(min(count, MAX_PAGES + 1))]
    elif not isinstance(pages, list) or not all(type(page) is int for page in pages):
        raise _Refused("EINVAL")
    array = np.array([page if 0 <= page < MAX_PAGES else MAX_PAGES for page in pages], np.uint32)
    stop = _batch(result, lambda: call(array, max(retry, 0)))
    if stop is None:
        result["done"] += again
    return stop


def _batch(result: Op, call: Callable[[], Batch]) -> str | None:
    try:
        batch = call()
    except MachineError as refusal:
        if refusal.errno in (errno.EINVAL, errno.ENODEV):
            result["done"] = 0  # the ioctl looked at its arguments and refused them
        raise
    result["done"] = batch.done
    if batch.retries:
        result["retries"] = batch.retries
    return batch.stop


# ---- the dump ------------------------------------------------------------------------------------


def state(m: Machine, *, summary: bool = False, full: bool = False) -> Op:
    """Everything the ring knows, in the format of spec/oplog.md, part State."""
    k = m.k
    return {
        "nr_free": int(k.g.nr_free),
        "nodes": [_node(m, row, full) for row in range(int(k.g.nr_nodes))],
        # In mainline EPC pages keep no cgroup alive.
        "cgroups": [_cgroup(m, c, summary) for c in _preorder(m) if m.series != "mainline" or k.cgroups[c].online],
        "enclaves": {name: _enclave(m, name, summary, full) for name in _by_process(m)},
        "vepcs": {name: _vepc(m, name) for name in m.vepcs},
        "zombies": int(k.g.nr_zombies),
        "ksgxd_woken": m.ksgxd_woken,
        "counters": {name: n for name, n in m.counters().items() if name in COUNTERS},
    }


def _by_process(m: Machine) -> list[str]:
    """Enclaves in the order of their oldest living process."""
    return list(dict.fromkeys(task.enclave.id for task in m.tasks.values() if task.enclave is not None))


def _entries(m: Machine, fifo: int) -> list[int]:
    """Entries of a list, head to tail, stale ones included."""
    k = m.k
    q = k.fifos[fifo]
    slot, entries = int(q.head), []
    for _ in range(int(q.len)):
        entries.append(int(k.slots[slot]))
        slot = int(k.block_next[slot >> 4]) << 4 if slot & 15 == 15 else slot + 1
    return entries


def lru_pages(m: Machine, c: int) -> list[int]:
    """encl_pages on a cgroup's reclaimable list, oldest first."""
    k = m.k
    fifo = structs.FIRST_CGROUP_FIFO + c
    stale: dict[int, int] = {}
    for i in range(int(k.g.nr_tombs)):
        if k.tombs[i].fifo == fifo:
            page = int(k.tombs[i].page)
            stale[page] = stale.get(page, 0) + 1
    live = []
    for v in _entries(m, fifo):
        if stale.get(v, 0):
            stale[v] -= 1  # the oldest entries of a page are the stale ones
        else:
            live.append(v)
    return live


def _node(m: Machine, row: int, full: bool) -> Op:
    k = m.k
    node = {
        "node": int(k.nodes[row].id),
        "free": int(k.fifos[row].len),
        "poison": int(k.nodes[row].nr_poison),
    }
    if full:
        node["free_list"] = _runs((str(s), i) for s, i in (_place(m, frame) for frame in _entries(m, row)))  # type: ignore[assignment]
    return node


def _place(m: Machine, frame: int) -> tuple[int, int]:
    """Section and index in it of a frame."""
    section = max(s for s in range(int(m.k.g.nr_sections)) if m.k.sections[s].first <= frame)
    return section, frame - int(m.k.sections[section].first)


def _preorder(m: Machine) -> list[int]:
    k = m.k
    order, stack = [], [0]
    while stack:
        c = stack.pop()
        order.append(c)
        child = int(k.cgroups[c].last_child)
        while child != structs.NIL:
            stack.append(child)
            child = int(k.cgroups[child].prev)
    return order


def _page_name(m: Machine, v: int) -> tuple[str, int]:
    enclave = m.enclave_of(v)
    return enclave.id, v - enclave.base


def _cgroup(m: Machine, c: int, summary: bool) -> Op:
    k = m.k
    cg = k.cgroups[c]
    v2, v17 = m.series == "v2", m.series == "v17"
    pages = lru_pages(m, c)
    limit = m.raw_limit(c)
    dump: Op = {
        "path": m.cgroup_name(c),
        "online": bool(cg.online),
        "usage": int(cg.usage) if v2 or v17 else 0,  # mainline counts for reports only
        "max": "max" if limit is None else limit,
        "events": int(cg.events),
    }
    if v17:
        dump |= {"events_local": int(cg.events_local), "peak": int(cg.peak)}
    dump["nlru"] = len(pages)
    if not summary:
        dump["lru"] = _runs(_page_name(m, v) for v in pages)
    if v2:
        dump["nunrec"] = int(cg.nr_unrec)
        if not summary:
            dump["unrec"] = _runs(_pin_name(m, pin) for pin in _unreclaimable(m, c))
        dump["iter"] = None if cg.iter == structs.NIL else m.cgroup_name(int(cg.iter))
        dump["epoch"] = int(cg.epoch)
    elif v17:
        dump["next"] = m.cgroup_name(int(cg.next_cg))
    dump |= {"pending": bool(cg.pending), "tasks": int(cg.tasks), "backing": int(cg.backing)}
    if c != 0:
        refs = int(cg.online + cg.tasks + cg.pages + cg.children)
        dump["refs"] = refs if v2 or v17 else int(cg.online + cg.tasks) + _online_children(m, c)
    return dump


def _online_children(m: Machine, c: int) -> int:
    child, n = int(m.k.cgroups[c].first_child), 0
    while child != structs.NIL:
        n += int(m.k.cgroups[child].online)
        child = int(m.k.cgroups[child].next)
    return n


def _unreclaimable(m: Machine, c: int) -> list[int]:
    pins, pin = [], int(m.k.cgroups[c].unrec_head)
    while pin != structs.NIL:
        pins.append(pin)
        pin = int(m.k.pins[pin].next)
    return pins


def _pin_name(m: Machine, pin: int) -> tuple[str, int]:
    p = m.k.pins[pin]
    if p.kind == structs.PIN_VEPC:
        return f"vepc:{m.vepc_name(int(p.owner))}", int(p.index)
    kind = "SECS" if p.kind == structs.PIN_SECS else "VA"
    return f"{m.enclave_name(int(p.owner))}:{kind}", -1


def _enclave(m: Machine, name: str, summary: bool, full: bool) -> Op:
    k = m.k
    enclave = m.enclaves[name]
    encl = k.encls[enclave.row]
    processes = [(id, t) for id, t in m.tasks.items() if t.enclave is enclave]
    owner = processes[0][1]
    dump: Op = {
        "cgroup": m.cgroup_name(int(k.tasks[owner.row].cgroup)),
        "pages": int(encl.nr_pages),
        "nres": int(encl.nr_resident),
        "page_cnt": int(encl.page_cnt),
        "child": int(encl.child),
        "secs": bool(encl.secs != structs.NIL),
        "ref": int(encl.refs),
        "init": bool(encl.flags & structs.E_INIT),
    }
    if m.series == "v2":
        dump["oom"] = bool(encl.flags & structs.E_OOM)
    dump["va"] = _va_slots(m, int(encl.va_head))
    dump["backing"] = int(encl.backing)
    if summary:
        return dump
    s = k.state[enclave.base : enclave.base + enclave.nr_pages]
    known, resident = s & structs.P_KNOWN, s & structs.P_RESIDENT
    dump["resident"] = _ranges(resident)
    dump["swapped"] = _ranges((known != 0) & (resident == 0))
    dump["mms"] = []
    for id, task in processes:
        ptes = int(k.mms[k.tasks[task.row].mm].ptes)
        bits = s if ptes == structs.NIL else k.ptes[ptes : ptes + enclave.nr_pages]
        cgroup = m.cgroup_name(int(k.tasks[task.row].cgroup))
        dump["mms"].append(
            {
                "id": id,
                "cgroup": cgroup,
                "mapped": _ranges(bits & structs.P_MAPPED),
                "young": _ranges(bits & structs.P_YOUNG),
            }
        )
    if full:
        pages = np.flatnonzero(resident)
        dump["place"] = [[int(p), *_place(m, int(k.place[enclave.base + int(p)].where))] for p in pages]
    return dump


def _va_slots(m: Machine, va: int) -> list[int]:
    used = []
    while va != structs.NIL:
        used.append(int(m.k.pins[va].used))
        va = int(m.k.pins[va].va_next)
    return used


def _vepc(m: Machine, name: str) -> Op:
    k = m.k
    task = m.vepcs[name]
    v = k.vepcs[task.vepc]
    return {
        "cgroup": m.cgroup_name(int(k.tasks[task.row].cgroup)),
        "pages": _ranges(k.vmap[v.map : v.map + v.length]),
    }
