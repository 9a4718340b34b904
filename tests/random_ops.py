"""Random op logs for machines that are always short of something (spec/oplog.md has the vocabulary).

`ops(rng, n)` is a generator that is told each op's result (`send`), so that most ops name things that exist. Machines
are 24 to 200 EPC pages in 1 to 3 sections, limits a few pages, every op of the vocabulary occurs, and about one op in
fifteen is odd: an unknown id, a range over the end, text that is no limit. `rng` is any random.Random; the one that
hypothesis hands out makes a failing log shrink. Left out: bad JSON and fields of a wrong type, which no model answers.
"""

import random
from collections.abc import Generator
from typing import Any

Op = dict[str, Any]
Result = dict[str, Any]

LIMITS = (0, 1, 2, 3, 5, 8, 13, 20, 24, 40, 65, 73, 130, 170)  # pages; around 64 and 128 the rules change
FILES = ("misc.max", "misc.current", "misc.events", "misc.capacity", "misc.events.local", "misc.peak", "misc.min")
ODD_TEXTS = ("max", "sgx_epc", "sgx_epc -1", "sgx_epc 1k", "sev 5", "sgx_epc 18446744073709551616", "sgx_epc  4096")
GOOD_TEXTS = ("sgx_epc max", " sgx_epc max\n", "sgx_epc 0x9001", "sgx_epc 0", "sgx_epc 4095", f"sgx_epc {2**64 - 1}")
SIZES = (8, 16, 32, 64, 128, 1024)
ODD_SIZES = (0, 1, 3, 48, 2**20 + 1)

# How often each op is drawn.
WEIGHTS = {
    "touch": 30,
    "add_page": 12,
    "enclave_create": 5,
    "init": 5,
    "mkdir": 3,
    "rmdir": 3,
    "write": 6,
    "read": 2,
    "trim": 3,
    "tcs": 2,
    "restrict": 2,
    "accept": 4,
    "remove": 3,
    "run": 1,
    "fork": 3,
    "migrate": 3,
    "close": 3,
    "vepc_open": 1,
    "vepc_fault": 3,
    "vepc_close": 1,
    "vepc_migrate": 1,
    "vepc_guest": 2,
    "vepc_remove_all": 1,
    "poison": 1,
    "ksgxd": 3,
    "work": 4,
    "state": 1,
    "bogus": 0.2,
}


class _World:
    """What the log has made so far, as its results told."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.cgroups = ["/"]
        self.sizes: dict[str, int] = {}  # pages of each process's enclave
        self.vepcs: dict[str, int] = {}
        self.sections: list[int] = []
        self.made = 0

    def rarely(self, one_in: int) -> bool:
        return self.rng.randrange(one_in) == 0

    def name(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}{self.made}"

    def cgroup(self) -> str:
        if self.rarely(40):
            return "/nowhere"
        return self.rng.choice(self.cgroups[1:]) if len(self.cgroups) > 1 and not self.rarely(6) else "/"

    def process(self) -> str:
        if not self.sizes or self.rarely(60):
            return "nobody"
        return self.rng.choice(list(self.sizes))

    def vepc(self) -> str:
        if not self.vepcs or self.rarely(60):
            return "nobody"
        return self.rng.choice(list(self.vepcs))

    def node(self) -> Op:
        rng = self.rng
        total = rng.choice((24, 30, 40, 64, 70, 100, 130, 200))
        pages = [total]
        if not self.rarely(3):
            cut = rng.randint(1, total - 2)
            pages = [cut, total - cut]
            if self.rarely(2):
                second = rng.randint(1, total - cut - 1) if total - cut > 1 else 1
                pages = [cut, second, max(1, total - cut - second)]
        self.sections = pages
        return {
            "op": "node",
            "sections": [{"node": rng.randrange(3), "pages": n} for n in pages],
            "sgx2": not self.rarely(3),
            "auto_work": self.rarely(3),
            "auto_ksgxd": self.rarely(3),
        }

    def span(self, size: int) -> Op:
        """A range of pages, mostly inside."""
        rng = self.rng
        if self.rarely(25):
            return {"page": rng.choice((-1, 0, size - 1, size)), "count": rng.choice((0, 1, 2, size + 1, -1))}
        first = rng.randrange(size)
        return {"page": first, "count": rng.randint(1, min(size - first, rng.choice((1, 4, 12, 40))))}

    def touches(self, size: int) -> Op:
        rng = self.rng
        if self.rarely(3):
            op: Op = {"pages": [rng.randrange(size) for _ in range(rng.randint(1, 8))]}
            if self.rarely(20):
                op["pages"].append(size)
        else:
            op = self.span(size)
            if self.rarely(5):
                op["step"] = rng.choice((2, 3, -1, 0))
        if self.rarely(2):
            op["retry"] = rng.choice((1, 2, 5, 20))
        if self.rarely(6):
            op["access"] = False
        return op

    def make(self, kind: str) -> Op:
        op: Op = {"op": kind}
        return op | getattr(self, f"make_{kind}", dict)()

    def make_mkdir(self) -> Op:
        rng = self.rng
        parent = rng.choice(self.cgroups)
        return {"path": parent.rstrip("/") + "/" + rng.choice("abcd")}

    def make_rmdir(self) -> Op:
        return {"path": self.cgroup()}

    def make_write(self) -> Op:
        rng = self.rng
        op = {"path": self.cgroup(), "file": "misc.max" if not self.rarely(20) else rng.choice(FILES)}
        if self.rarely(12):
            op["text"] = rng.choice(ODD_TEXTS)
        elif self.rarely(4):
            op["text"] = rng.choice(GOOD_TEXTS)
        else:
            op["text"] = f"sgx_epc {rng.choice(LIMITS) * 4096 + (rng.randrange(4096) if self.rarely(4) else 0)}"
        return op

    def make_read(self) -> Op:
        return {"path": self.cgroup(), "file": self.rng.choice(FILES)}

    def make_enclave_create(self) -> Op:
        rng = self.rng
        op: Op = {"id": self.process() if self.rarely(20) else self.name("e"), "cgroup": self.cgroup()}
        op["pages"] = rng.choice(ODD_SIZES if self.rarely(25) else SIZES)
        if self.rarely(3):
            op["node"] = rng.choice((0, 1, 2, 3)) if not self.rarely(20) else 64
        return op

    def of_process(self, op: Op | None = None) -> tuple[Op, int]:
        id_ = self.process()
        return {"id": id_}, self.sizes.get(id_, 8)

    def make_add_page(self) -> Op:
        op, size = self.of_process()
        op |= self.span(size)
        if self.rarely(6):
            op["measure"] = True
        if self.rarely(6):
            op["type"] = "tcs" if not self.rarely(10) else "secs"
        return op

    def make_touch(self) -> Op:
        op, size = self.of_process()
        return op | self.touches(size)

    make_accept = make_touch

    def make_range(self) -> Op:
        op, size = self.of_process()
        return op | self.span(size)

    make_trim = make_tcs = make_restrict = make_remove = make_range

    def make_init(self) -> Op:
        return {"id": self.process()}

    make_close = make_init

    def make_run(self) -> Op:
        return {"id": self.process(), "on": not self.rarely(3)}

    def make_fork(self) -> Op:
        return {"id": self.process(), "child": self.process() if self.rarely(20) else self.name("f")}

    def make_migrate(self) -> Op:
        return {"id": self.process(), "cgroup": self.cgroup()}

    def make_vepc_open(self) -> Op:
        op: Op = {"id": self.vepc() if self.rarely(20) else self.name("v"), "cgroup": self.cgroup()}
        return op | {"pages": self.rng.choice((4, 12, 30)) if not self.rarely(20) else 0}

    def of_vepc(self) -> tuple[Op, int]:
        id_ = self.vepc()
        return {"id": id_}, self.vepcs.get(id_, 4)

    def make_vepc_fault(self) -> Op:
        op, size = self.of_vepc()
        return op | self.touches(size)

    def make_vepc_close(self) -> Op:
        return {"id": self.vepc()}

    make_vepc_remove_all = make_vepc_close

    def make_vepc_migrate(self) -> Op:
        return {"id": self.vepc(), "cgroup": self.cgroup()}

    def make_vepc_guest(self) -> Op:
        op, size = self.of_vepc()
        op |= {"page": self.rng.randrange(min(size, 4)), "role": self.rng.choice(("secs", "child", "free"))}
        if op["role"] == "child":
            other, size = self.of_vepc()
            op |= {"secs_id": other["id"], "secs_page": self.rng.randrange(min(size, 4))}
        return op

    def make_poison(self) -> Op:
        section = self.rng.randrange(len(self.sections))
        return {"section": section, "page": self.rng.randrange(self.sections[section])}

    def make_ksgxd(self) -> Op:
        return {"if_woken": True} if self.rarely(2) else {}

    def make_state(self) -> Op:
        return {"summary": True} if self.rarely(2) else {}

    def learn(self, op: Op, result: Result) -> None:
        if not result["ok"]:
            return
        match op["op"]:
            case "mkdir":
                self.cgroups.append(op["path"])
            case "rmdir":
                self.cgroups.remove(op["path"])
            case "enclave_create":
                self.sizes[op["id"]] = op["pages"]
            case "fork":
                self.sizes[op["child"]] = self.sizes[op["id"]]
            case "close":
                del self.sizes[op["id"]]
            case "vepc_open":
                self.vepcs[op["id"]] = op["pages"]
            case "vepc_close":
                del self.vepcs[op["id"]]


def ops(rng: random.Random, n: int, states: int = 10) -> Generator[Op, Result, None]:
    """n ops after the boot, a full state after each `states` of them and at the end. Send each op's result."""
    world = _World(rng)
    world.learn({"op": "node"}, (yield world.node()))
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    opening = ["mkdir", "mkdir", "write", "enclave_create", "add_page", "enclave_create", "add_page", "init"]
    for i in range(n):
        kind = opening[i] if i < len(opening) and rng.randrange(8) else rng.choices(kinds, weights)[0]
        op = world.make(kind)
        if rng.randrange(40) == 0:
            op["signal"] = True
        world.learn(op, (yield op))
        if i % states == states - 1:
            yield {"op": "state", "full": True}
    yield {"op": "state", "full": True}
