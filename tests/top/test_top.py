"""`epcgroup top`: what a look sees, the rows made of looks, the text of the screen, keys, and the command."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.agent.source import KubeletFile, Manifests
from epcgroup.agent.tree import Tree
from epcgroup.cli.main import main
from epcgroup.errors import InputError
from epcgroup.interface import UNLIMITED
from epcgroup.top.keys import press
from epcgroup.top.rows import SORTS, History, Row, arrange
from epcgroup.top.screen import ASCII, Line, View, render
from epcgroup.top.sources import Group, Look, RunSource, StatusSource, TreeSource
from epcgroup.trace import PodRun, Run, RunSet

ROOT = Path(__file__).parent.parent.parent
MIB = 1 << 20
PATIENCE = 120  # seconds until a test that waits for a screen gives up
UID = "8a6e0804-2bd0-4672-b79d-d97027f9071a"
POD = f"/kubepods/besteffort/pod{UID}"
APP, SANDBOX = "c" * 64, "5" * 64


# ---- a tree ----------------------------------------------------------------------------------------


def write(group: Path, use: int, limit: int | str = "max", peak: int = 0, events: int = 0) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "misc.max").write_text(f"sgx_epc {limit}\n")
    (group / "misc.current").write_text(f"sgx_epc {use}\n")
    (group / "misc.peak").write_text(f"sgx_epc {peak}\n")
    (group / "misc.events").write_text(f"sgx_epc.max {events}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A pod with a container and its sandbox, and groups that are no pods."""
    root = tmp_path / "cgroup"
    for path, numbers in {
        POD: (14 * MIB, 16 * MIB, 15 * MIB, 7),
        f"{POD}/{APP}": (14 * MIB, 12 * MIB, 15 * MIB, 7),
        f"{POD}/{SANDBOX}": (0, "max", 0, 0),
        "/kubepods": (14 * MIB, "max", 0, 7),
        "/system.slice": (0, "max", 0, 0),
        "/system.slice/aesmd.service": (MIB, "max", MIB, 0),
        "/batch": (0, MIB, 0, 0),
    }.items():
        write(root / path[1:], *numbers)  # type: ignore[arg-type]
    (root / "cgroup.controllers").write_text("misc\n")
    (root / "misc.capacity").write_text(f"sgx_epc {128 * MIB}\n")
    (root / "misc.current").write_text(f"sgx_epc {15 * MIB}\n")
    return root


POD_YAML = f"""
kind: Pod
metadata: {{name: store, namespace: shop, uid: {UID}}}
spec: {{containers: [{{name: app, resources: {{limits: {{sgx.intel.com/epc: 10Mi}}}}}}]}}
status: {{containerStatuses: [{{name: app, containerID: "containerd://{APP}"}}]}}
"""


def look(root: Path, pods: Any = None) -> Look:
    return TreeSource(Tree(root, "sgx_epc"), pods, lambda: 1.0).look()


def test_a_tree_shows_pods_with_their_containers_and_groups_that_use_or_limit(tree: Path) -> None:
    seen = look(tree)
    assert (seen.at, seen.capacity, seen.use, seen.problems) == (1.0, 128 * MIB, 15 * MIB, ())
    assert seen.groups == (
        Group(POD, "pod", f"pod {UID}", "", 14 * MIB, 16 * MIB, None, 15 * MIB, 7),
        Group(f"{POD}/{APP}", "container", "c" * 12, POD, 14 * MIB, 12 * MIB, None, 15 * MIB, 7),
        Group("/batch", "group", "/batch", "", 0, MIB, None, 0, 0),
        Group("/system.slice/aesmd.service", "group", "/system.slice/aesmd.service", "", MIB, UNLIMITED, None, MIB, 0),
    )


def test_pods_of_manifests_give_names_and_claims(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods/store.yaml").write_text(POD_YAML)
    (tmp_path / "pods/bad.yaml").write_text("a: [")
    seen = look(tree, Manifests(tmp_path / "pods"))
    assert [(g.kind, g.name, g.claim) for g in seen.groups[:2]] == [
        ("pod", "shop/store", 10 * MIB),
        ("container", "app", 10 * MIB),
    ]
    (problem,) = seen.problems
    assert "bad.yaml: not YAML: " in problem


def test_a_file_that_is_no_misc_file_is_a_line_and_the_rest_is_shown(tree: Path) -> None:
    (tree / "batch/misc.current").write_text("many\n")
    seen = look(tree)
    assert seen.problems == (f"{tree}/batch/misc.current: 'many' is not a line of a misc file; RESOURCE NUMBER",)
    assert [g.use for g in seen.groups if g.name == "/batch"] == [None]


def test_a_group_with_an_odd_name_stays_on_its_line(tree: Path) -> None:
    write(tree / "a\nb\x1b[2J", MIB)
    assert "/a\\nb\\x1b[2J" in [g.name for g in look(tree).groups]


def test_a_tree_without_the_resource_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    with pytest.raises(InputError, match=r"misc.capacity has no sgx_epc; --tree names another tree, --directory the"):
        look(tmp_path)


# ---- the daemon's status and recorded runs -----------------------------------------------------------

STATUS = {
    "pid": 7, "series": "v17", "epc": 64 * MIB, "free": 60 * MIB, "enclaves": [],
    "groups": {
        "/": {"max": None, "current": 4 * MIB, "peak": 4 * MIB, "refused": 0, "loads": 0, "write_outs": 0},
        "/job": {"max": 4 * MIB, "current": 3 * MIB, "peak": 4 * MIB, "refused": 2, "loads": 5, "write_outs": 6},
        "/free": {"max": None, "current": MIB, "peak": None, "refused": 0, "loads": 0, "write_outs": 0},
    },
}  # fmt: skip


def test_the_daemon_s_groups_have_paging_and_the_root_is_the_summary() -> None:
    seen = StatusSource(lambda: STATUS, lambda: 2.0).look()
    assert seen == Look(
        2.0,
        "live daemon 7, series v17",
        64 * MIB,
        4 * MIB,
        (
            Group("/job", "group", "/job", "", 3 * MIB, 4 * MIB, None, 4 * MIB, 2, 11),
            Group("/free", "group", "/free", "", MIB, UNLIMITED, None, None, 0, 0),
        ),
    )


def recorded() -> Run:
    def pod(name: str, limit: int | None, uses: list[int], events: list[int], ins: list[int]) -> PodRun:
        return PodRun(
            name, f"/{name}", 8 * MIB, limit, 0, "zipf", s_usage_bytes=[use * MIB for use in uses], s_max_events=events,
            s_page_ins=ins, s_page_outs=ins,
        )  # fmt: skip

    return Run(
        "claims", "limited", "v17", 1.5, 1, 32 * MIB, 2, 1e9, "default",
        pods=[pod("web", 8 * MIB, [2, 8, 6, 8], [0, 0, 3, 9], [0, 5, 10, 30]),
              pod("job", None, [1, 2, 4, 16], [0, 0, 0, 0], [0, 0, 0, 0])],
        times=[0.0, 0.5, 1.0, 1.5],
        s_free_bytes=[29 * MIB, 22 * MIB, 22 * MIB, 8 * MIB],
    )  # fmt: skip


def looks(source: RunSource) -> list[Look]:
    return list(iter(source.look, None))  # type: ignore[arg-type]


def test_a_recorded_run_is_a_look_for_each_sample_up_to_a_moment() -> None:
    run = recorded()
    assert [seen.at for seen in looks(RunSource(run))] == [0.0, 0.5, 1.0, 1.5]
    assert [seen.at for seen in looks(RunSource(run, until=0.9))] == [0.0, 0.5]
    last = looks(RunSource(run))[-1]
    assert (last.capacity, last.use) == (32 * MIB, 24 * MIB)
    assert last.groups == (
        Group("web", "pod", "web", "", 8 * MIB, 8 * MIB, 8 * MIB, 8 * MIB, 9, 60),
        Group("job", "pod", "job", "", 16 * MIB, UNLIMITED, 8 * MIB, 16 * MIB, 0, 0),
    )


# ---- rows ------------------------------------------------------------------------------------------


def of(*groups: Group, at: float = 0.0) -> Look:
    return Look(at, "test", 64 * MIB, None, groups)


def test_rates_are_of_the_last_two_looks_and_unknown_at_first_and_after_a_restart() -> None:
    history = History()
    one = Group("/a", "group", "/a", use=1, events=10, paged=100)
    assert [(r.events_rate, r.paged_rate) for r in history.add(of(one, at=1.0))] == [(None, None)]
    two = replace(one, events=15, paged=100)
    assert [(r.events_rate, r.paged_rate) for r in history.add(of(two, at=3.0))] == [(2.5, 0.0)]
    assert [r.events_rate for r in history.add(of(one, at=4.0))] == [None]
    assert history.add(of(at=5.0)) == []
    assert [r.events_rate for r in history.add(of(two, at=6.0))] == [None]  # it had gone


def test_the_trend_is_the_use_of_the_last_sixteen_looks() -> None:
    history = History()
    for number in range(20):
        (row,) = history.add(of(Group("/a", "group", "/a", use=number), at=float(number)))
    assert row.trend == tuple(range(4, 20))
    (row,) = history.add(of(Group("/a", "group", "/a"), at=20.0))
    assert row.trend == tuple(range(4, 20))


ROWS = [
    Row(Group("p", "pod", "shop/web", use=3, limit=UNLIMITED)),
    Row(Group("c1", "container", "app", "p", use=1, limit=10)),
    Row(Group("c2", "container", "proxy", "p", use=2, limit=4)),
    Row(Group("g", "group", "/batch", use=9, limit=10)),
    Row(Group("n", "group", "/none")),
]


def names(sort: str = "use", reverse: bool = False, match: str = "", containers: bool = True) -> list[str]:
    return [r.group.name for r in arrange(ROWS, sort, reverse=reverse, match=match, containers=containers)]


def test_rows_are_sorted_with_containers_below_their_pod_and_unknown_last() -> None:
    assert names() == ["/batch", "shop/web", "proxy", "app", "/none"]
    assert names(reverse=True) == ["shop/web", "app", "proxy", "/batch", "/none"]
    assert names("share") == ["/batch", "/none", "shop/web", "proxy", "app"]
    assert names("name") == ["/batch", "/none", "shop/web", "app", "proxy"]
    assert names("name", reverse=True) == ["shop/web", "proxy", "app", "/none", "/batch"]
    assert names(containers=False) == ["/batch", "shop/web", "/none"]
    for sort in SORTS:
        assert sorted(names(sort)) == sorted(names())


def test_a_filter_keeps_what_it_matches_with_its_pod_or_its_containers() -> None:
    assert names(match="WEB") == ["shop/web", "proxy", "app"]
    assert names(match="prox") == ["shop/web", "proxy"]
    assert names(match="prox", containers=False) == ["shop/web"]
    assert names(match="nobody") == []


# ---- the screen ------------------------------------------------------------------------------------


LONG = "nightly-attestation-report-28319040-x7kqz"


def node() -> tuple[Look, list[Row]]:
    """Eight looks at a node: a store that grows into its limit, a cache, and a job that nobody limits."""
    history = History()
    rows: list[Row] = []
    for number in range(8):
        store, hits = min(48, 20 + 5 * number) * MIB, max(0, number - 5) * 120
        seen = Look(
            2.0 * number,
            "cgroup2 /sys/fs/cgroup",
            94 * MIB,
            store + 20 * MIB,
            (
                Group("s", "pod", "shop/store", "", store, 48 * MIB, 48 * MIB, store, hits),
                Group("s1", "container", "app", "s", store - 2 * MIB, 48 * MIB, 40 * MIB, store - 2 * MIB, hits),
                Group("s2", "container", "proxy", "s", 2 * MIB, 8 * MIB, 8 * MIB, 3 * MIB, 0),
                Group("c", "pod", "shop/cache", "", 16 * MIB, 32 * MIB, 10 * MIB, 20 * MIB, 0),
                Group("c1", "container", "redis", "c", 16 * MIB, 32 * MIB, 10 * MIB, 20 * MIB, 0),
                Group("j", "pod", f"batch/{LONG}", "", 4 * MIB, UNLIMITED, None, 4 * MIB, 0),
            ),
        )  # fmt: skip
        rows = history.add(seen)
    return seen, rows


def screen(view: View, width: int = 100, height: int | None = 14, **more: Any) -> list[Line]:
    seen, rows = node()
    shown = arrange(rows, view.sort, reverse=view.reverse, match=view.match, containers=view.containers)
    return render(seen, shown, view, width, height, **more)


def test_the_screen_is_the_one_in_the_guide() -> None:
    page = ROOT / "docs/guides/top.md"
    text = page.read_text("utf-8")
    made = "".join(f"{line.text}\n" for line in screen(View()))
    pattern = re.compile(r"(<!-- what tests/top renders -->\n```text\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
    if os.environ.get("EPCGROUP_RENEW_DOCS") == "1":
        page.write_text(pattern.sub(lambda m: m[1] + made + m[3], text), "utf-8")
        return
    (found,) = pattern.finditer(text)
    assert found[2] == made


def test_a_row_near_its_limit_stands_out_and_more_so_while_it_is_refused() -> None:
    styles = {line.text.split()[0]: line.style for line in screen(View()) if line.text}
    assert {name: styles[name] for name in ("shop/store", "app", "proxy", "shop/cache")} == {
        "shop/store": "bad",
        "app": "bad",
        "proxy": "plain",
        "shop/cache": "plain",
    }
    assert styles["GROUP"] == "head"


@given(
    st.integers(1, 200), st.integers(4, 40), st.none() | st.integers(0, 9), st.text(max_size=5), st.booleans(),
    st.sampled_from(list(SORTS)),
)  # fmt: skip
def test_every_line_fits_and_the_selected_row_is_on_the_screen(
    width: int, height: int, selected: int | None, match: str, containers: bool, sort: str
) -> None:
    view = View(sort=sort, match=match, containers=containers, selected=selected)
    lines = screen(view, width, height)
    assert len(lines) == height
    assert all(len(line.text) <= width for line in lines)
    shown = arrange(node()[1], sort, reverse=False, match=match, containers=containers)
    room = height - 5  # title, EPC, blank, heading, keys
    if selected is not None and selected < len(shown) and room > 0:
        assert [line.style for line in lines].count("selected") == 1


def test_a_terminal_without_blocks_gets_letters() -> None:
    lines = [line.text for line in screen(View(match="cache"), blocks=ASCII)]
    assert lines[4].endswith("  ========")
    assert all(text.isascii() for text in lines)


def test_problems_are_said_and_counted() -> None:
    seen, rows = node()
    texts = [line.text for line in render(replace(seen, problems=tuple("abcde")), rows, View(), 80)]
    assert texts[2:6] == ["! a", "! b", "! c", "! and 2 more"]
    assert "nothing matches" in [line.text for line in screen(View(match="nobody"))]
    assert "no group uses or may use EPC" in [line.text for line in render(of(), [], View(), 80)]


# ---- keys ------------------------------------------------------------------------------------------


def pressed(*keys: str, view: View | None = None, nr_rows: int = 5) -> View:
    for key in keys:
        view = press(view or View(), key, nr_rows)
        assert view is not None
    return view or View()


def test_keys_change_the_view() -> None:
    assert press(View(), "q", 5) is None
    assert pressed("s") == View(sort="share")
    assert pressed("S") == View(sort="name")
    assert pressed(*"s" * len(SORTS)) == View()
    assert pressed("r") == View(reverse=True)
    assert pressed("c") == View(containers=False)
    assert pressed(" ") == View(paused=True)
    assert pressed("x", "") == View()


def test_a_filter_is_typed_kept_and_dropped() -> None:
    assert pressed("/", "w", "q", "backspace", "e") == View(match="we", typing=True)
    assert pressed("/", "w", "enter") == View(match="w")
    assert pressed("/", "w", "escape") == View()
    assert pressed("/", "w", "enter", "escape") == View()
    assert pressed("/", "up", "é") == View(match="é", typing=True)


def test_arrows_move_within_the_rows() -> None:
    assert pressed("down").selected == 0
    assert pressed("down", "down").selected == 1
    assert pressed("down", "page-down").selected == 4
    assert pressed("down", "end", "home").selected == 0
    assert pressed("end", "up").selected == 3
    assert pressed("down", nr_rows=0).selected is None
    assert pressed("up", view=View(selected=90)).selected == 3  # rows have gone


# ---- the command -----------------------------------------------------------------------------------


def test_once_prints_a_table(tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tree.parent)
    assert main(["top", "--tree", "cgroup", "--once", "--filter", "batch"]) == 0
    out = capsys.readouterr().out
    assert out == (
        'epcgroup top | by use | filter "batch" | cgroup2 cgroup\n'
        "EPC [##                  ] 15 MiB of 128 MiB (12%)\n"
        "\n"
        "GROUP         USE  LIMIT  USE%  PEAK  EVENTS  TREND\n"
        "/batch        0 B  1 MiB    0%   0 B       0  ▁\n"
    )


def test_json_is_a_line_with_every_row(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kubelet = tmp_path / "pods.json"
    pod = {
        "kind": "Pod", "metadata": {"name": "store", "namespace": "shop", "uid": UID},
        "spec": {"containers": [{"name": "app", "resources": {"limits": {"sgx.intel.com/epc": "10Mi"}}}]},
        "status": {"containerStatuses": [{"name": "app", "containerID": f"containerd://{APP}"}]},
    }  # fmt: skip
    kubelet.write_text(json.dumps({"kind": "PodList", "items": [pod]}))
    assert KubeletFile(kubelet).look().problems == ()
    assert main(["top", "--tree", str(tree), "--pods", str(kubelet), "--once", "--json", "--filter", "store"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    seen = json.loads(line)
    assert (seen["capacity_bytes"], seen["use_bytes"], seen["problems"]) == (128 * MIB, 15 * MIB, [])
    assert seen["rows"][1] == {
        "kind": "container",
        "name": "app",
        "path": f"{POD}/{APP}",
        "pod": POD,
        "use_bytes": 14 * MIB,
        "limit_bytes": 12 * MIB,
        "claim_bytes": 10 * MIB,
        "peak_bytes": 15 * MIB,
        "events": 7,
        "events_per_second": None,
        "paged_per_second": None,
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    unlimited = recorded()
    unlimited.label, unlimited.kind = "none", "unlimited"
    RunSet("test", [recorded(), unlimited], {}).save(tmp_path / "run.json")
    return tmp_path / "run.json"


def test_a_recorded_run_has_rates_and_a_line_of_json_for_each_sample(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", "--recorded", str(saved), "--json"]) == 0
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [s["at"] for s in seen] == [0.0, 0.5, 1.0, 1.5]
    web = [next(row for row in s["rows"] if row["name"] == "web") for s in seen]
    assert [row["events_per_second"] for row in web] == [None, 0.0, 6.0, 12.0]
    assert [row["paged_per_second"] for row in web] == [None, 20.0, 20.0, 80.0]
    assert main(["top", "--recorded", str(saved), "--run", "none", "--at", "1s", "--once"]) == 0
    assert capsys.readouterr().out.startswith("epcgroup top | by use | run none, 1.00 s of 1.50 s, EPC 32 MiB\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tree", "gone"], "gone: not a cgroup2 tree: it has no cgroup.controllers"),
        (["--tree", "cgroup", "--at", "1s"], "--at: goes with --recorded"),
        (["--recorded", "run.json", "--pods", "x"], "--pods: goes with a tree"),
        (["--recorded", "run.json", "--run", "nome"], 'run.json: no run "nome"; did you mean "none"?'),
        (["--recorded", "list.json"], "list.json: not a saved run (format 'epcgroup-run-1' expected)"),
        (["--tree", "cgroup", "--interval", "1ms"], "--interval: 1ms is less than 0.1 s"),
        (["--tree", "cgroup", "--resource", "SGX"], "--resource: 'SGX' is no resource of the misc controller, as in "
         "sgx_epc"),
        (["--tree", "cgroup", "--resource", "sev"], "cgroup/misc.capacity has no sev; --tree names another tree, "
         "--directory the live daemon"),
        (["--directory", "gone"], "gone: no daemon; epcgroup up --epc 64Mi starts one"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_one_line(
    words: list[str], says: str, tree: Path, saved: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tree.parent)
    Path("list.json").write_text("[]")
    assert main(["top", "--once", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"epcgroup: {says}\n"


def test_without_a_terminal_it_says_what_to_do(tree: Path) -> None:
    command = [sys.executable, "-m", "epcgroup", "top", "--tree", str(tree)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (
        2, "epcgroup: this is no terminal; --once prints one table, --json a line for each look\n",
    )  # fmt: skip


def test_a_tree_is_shown_without_numpy_and_numba(tree: Path) -> None:
    code = (
        "import sys; from epcgroup.cli.main import main; "
        f"main(['top', '--tree', {str(tree)!r}, '--once']); "
        "print(sorted({'numpy', 'numba', 'curses'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---- a terminal ------------------------------------------------------------------------------------


class Terminal:
    """`epcgroup top` on a pseudo-terminal, with what stands on its screen."""

    def __init__(self, tree: Path, term: str = "linux") -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 14, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "epcgroup", "top", "--tree", tree.name, "--interval", "0.1s"],
            cwd=tree.parent, stdin=theirs, stdout=theirs, stderr=theirs,
            env=os.environ | {"TERM": term, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self._screen = pyte.Screen(100, 14)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    def until(self, there: Callable[[list[str]], bool]) -> None:
        """Read until the screen is so."""
        end = time.monotonic() + PATIENCE
        while not there(self.lines):
            assert time.monotonic() < end, "\n".join(self.lines)
            if select.select([self.ours], [], [], 1)[0]:
                self._stream.feed(os.read(self.ours, 4096))

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal(tree: Path) -> Iterator[Terminal]:
    made = Terminal(tree)
    yield made
    made.close()


def test_on_a_terminal_it_follows_keys_and_files_until_q(terminal: Terminal, tree: Path) -> None:
    terminal.until(lambda lines: lines[-1].startswith("q quit") and any("/batch" in line for line in lines))
    terminal.press("/aes")
    terminal.until(lambda lines: lines[-1] == "filter: aes_")
    terminal.press("\n")
    title = 'epcgroup top | by use | filter "aes" |'
    terminal.until(lambda lines: lines[0].startswith(title) and lines[-1].startswith("q quit"))
    assert [line.split()[0] for line in terminal.lines[3:12] if line] == ["GROUP", "/system.slice/aesmd.service"]
    write(tree / "system.slice/aesmd.service", 77 * MIB)
    terminal.until(lambda lines: "77 MiB" in lines[4])
    terminal.press(" ")
    terminal.until(lambda lines: "| paused |" in lines[0])
    terminal.press("q")
    assert terminal.process.wait(timeout=120) == 0


def test_a_tree_that_goes_is_said_and_the_screen_stays(terminal: Terminal, tree: Path) -> None:
    terminal.until(lambda lines: any("/batch" in line for line in lines))
    tree.rename(tree.parent / "gone")
    terminal.until(lambda lines: lines[2].startswith("! cgroup/misc.capacity has no sgx_epc; "))
    assert any("/batch" in line for line in terminal.lines)
    (tree.parent / "gone").rename(tree)
    terminal.until(lambda lines: lines[2] == "")


def test_it_ends_when_its_terminal_goes(tree: Path) -> None:
    made = Terminal(tree)
    try:
        made.until(lambda lines: any("/batch" in line for line in lines))
        os.close(made.ours)
        made.ours = os.open(os.devnull, os.O_RDONLY)
        assert made.process.wait(timeout=120) in (0, 1, -signal.SIGHUP)  # 1: its last words reach nobody
    finally:
        made.close()


def test_a_terminal_without_a_screen_is_one_line(tree: Path) -> None:
    made = Terminal(tree, "no-such-terminal")
    try:
        made.until(lambda lines: any("--once prints one table" in line for line in lines))
        assert made.process.wait(timeout=120) == 2
    finally:
        made.close()
