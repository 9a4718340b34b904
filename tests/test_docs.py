"""What the documents say is true: console blocks are run, links lead somewhere, the kernel map is complete.

A ```console block is a shell session: lines that begin with `$ ` are run, one after the other, in a folder that all
blocks of a page share; what follows is what they print (standard output and error together). A line `...` stands for
any number of lines, `...` within a line for any text. A ```console live block runs where live paging can (elsewhere it
is left out and the test skipped); a daemon that it starts is the page's own, in $EPCGROUP_RUN.
`EPCGROUP_RENEW_DOCS=1 pytest tests/test_docs.py` writes what is printed now into the pages; look at the difference
before you commit it.
"""

import ast
import contextlib
import importlib.util
import itertools
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from epcgroup.live import cgroups, probe

ROOT = Path(__file__).parent.parent
KERNEL = ROOT / "src" / "epcgroup" / "kernel"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RENEW = os.environ.get("EPCGROUP_RENEW_DOCS") == "1"
FOLDERS = ("scenarios", "tests", "docs")  # of the repository, as a page's commands see them

# Printed once a machine, when the ring is compiled.
_COMPILING = re.compile(r"^epcgroup: first run: compiling.*\n", re.MULTILINE)
_BLOCK = re.compile(r"^```console( live[ \w-]*)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---- console blocks -------------------------------------------------------------------------------


@dataclass
class Command:
    """One `$ ` line, the lines that a here-document adds to it, and what it is said to print."""

    text: str
    expected: list[str] = field(default_factory=list)


def commands_of(block: str) -> Iterator[Command]:
    command: Command | None = None
    ends_at = ""  # the word that ends a here-document
    for line in block.splitlines():
        if ends_at:
            assert command is not None
            command.text += f"\n{line}"
            if line == ends_at:
                ends_at = ""
        elif line.startswith("$ "):
            if command is not None:
                yield command
            command = Command(line[2:])
            word = re.search(r"<<'?(\w+)'?", line)
            ends_at = word.group(1) if word else ""
        else:
            assert command is not None, f"output before the first command: {line!r}"
            command.expected.append(line)
    if command is not None:
        yield command


def run(command: Command, folder: Path) -> list[str]:
    """What the command prints, as lines."""
    paths = {"PATH": f"{folder / '.bin'}:{os.environ['PATH']}", "EPCGROUP_RUN": str((folder / "run").resolve())}
    done = subprocess.run(
        ["bash", "-c", command.text],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | paths | {"COLUMNS": "100", "NO_COLOR": "1"},
    )
    return _COMPILING.sub("", done.stdout).splitlines()


def matches(expected: list[str], got: list[str]) -> bool:
    parts = []
    for line in expected:
        parts.append("(?:.*\n)*" if line.strip() == "..." else ".*".join(map(re.escape, line.split("..."))) + "\n")
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in got)) is not None


def renewed(expected: list[str], got: list[str]) -> list[str]:
    """What is printed now, with as many lines at the head and tail as the page showed around its `...`."""
    gaps = [i for i, line in enumerate(expected) if line.strip() == "..."]
    if not gaps:
        return got
    assert len(gaps) == 1, "several gaps: renew this block by hand"
    tail = len(expected) - gaps[0] - 1
    return [*got[: gaps[0]], "...", *(got[-tail:] if tail else [])]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a page's commands run: empty but for links to the repository's folders; `epcgroup` is this checkout's."""
    for name in FOLDERS:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".bin").mkdir()
    for name, call in {"epcgroup": "-m epcgroup", "python": ""}.items():
        script = tmp_path / ".bin" / name
        script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT / "src"}" exec "{sys.executable}" {call} "$@"\n')
        script.chmod(0o755)
    # Not in tmp_path: the path of a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="epcgroup-docs-") as directory:
        (tmp_path / "run").symlink_to(directory)
        yield tmp_path
        if (tmp_path / "run" / "socket").exists():
            run(Command("epcgroup down"), tmp_path)
        stop_all_of(directory)


def stop_all_of(directory: str) -> None:
    """Kill what a page has left running: processes that have its folder in their environment."""
    mark = f"EPCGROUP_RUN={directory}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def lacking_for(words: str) -> str | None:
    """Why a block marked `live ...` cannot run here; None when it can."""
    if (reason := probe.missing()) or cgroups.mount_point() is None:
        return reason or "no cgroup2 is mounted"
    for need in words.split()[1:]:
        if need == "fuse":
            if importlib.util.find_spec("mfusepy") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
                return "mfusepy and /dev/fuse are needed"
        elif shutil.which(need) is None:
            return f"{need} is not installed"
    return None


@pytest.mark.parametrize("page", [p for p in PAGES if _BLOCK.search(p.read_text("utf-8"))], ids=name_of)
def test_console_blocks_print_what_the_page_says(page: Path, folder: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = []
    pieces = []
    end = 0
    lacking = None
    for block in _BLOCK.finditer(text):
        if block.group(1) and (lacking := lacking_for(block.group(1))):
            continue
        pieces.append(text[end : block.start(2)])
        end = block.end(2)
        for command in commands_of(block.group(2)):
            got = run(command, folder)
            shown = command.expected
            if not matches(shown, got):
                wrong.append("\n".join([f"$ {command.text}", *got]))
                shown = renewed(shown, got) if RENEW else shown
            pieces.append("".join(f"{line}\n" for line in [f"$ {command.text}", *shown]))
    if RENEW and wrong:
        page.write_text("".join([*pieces, text[end:]]), encoding="utf-8")
    assert RENEW or not wrong, (
        f"{name_of(page)} shows something else than is printed now (EPCGROUP_RENEW_DOCS=1 pytest tests/test_docs.py "
        "writes it):\n" + "\n".join(wrong)
    )
    if lacking is not None:
        pytest.skip(f"all but its live blocks: {lacking}")


# ---- links ----------------------------------------------------------------------------------------

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings make."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(text)}


def broken_links(page: Path) -> Iterator[str]:
    for target in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (fragment and fragment not in anchors(there)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_a_link_to_nothing_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](missing.md) [b](#here) [c](#there) [d](https://example.org/x) [e](page.md)\n")
    assert list(broken_links(page)) == ["missing.md", "#there"]


def test_every_page_under_docs_is_linked_from_another() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in _LINK.findall(page.read_text(encoding="utf-8"))
    }
    assert [name_of(page) for page in PAGES if page.is_relative_to(ROOT / "docs") and page not in linked] == []


# ---- generated and complete tables ----------------------------------------------------------------


def test_the_command_line_page_is_the_help_text(folder: Path) -> None:
    """docs/reference/cli.md has a console block for each subcommand: those blocks are run above."""
    from epcgroup.cli.main import SUBCOMMANDS

    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert [name for name in SUBCOMMANDS if f"$ epcgroup {name} --help\n" not in text] == []


def ring_functions(files: set[str]) -> set[str]:
    """`file.function` of every function without an underscore in front in these files of the ring."""
    return {
        f"{name}.{node.name}"
        for name in files
        for node in ast.parse((KERNEL / f"{name}.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def kernel_map() -> tuple[list[str], set[str]]:
    """What the map lists: `file.function` of each row below a heading `file.py`, and the files under "Ours alone"."""
    functions: list[str] = []
    ours: set[str] = set()
    for section in (ROOT / "docs/reference/kernel-map.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        for cell in (row.split("|")[1] for row in body.splitlines() if row.startswith(("| `", "| [`"))):
            if title == "Ours alone":
                ours |= set(re.findall(r"`(\w+)\.py`", cell))
            else:
                functions += [f"{title.removesuffix('.py')}.{name}" for name in re.findall(r"`(\w+)`", cell)]
    return functions, ours


def test_the_kernel_map_lists_every_file_of_the_ring() -> None:
    functions, ours = kernel_map()
    mirrors = {name.partition(".")[0] for name in functions}
    assert mirrors & ours == set()
    assert mirrors | ours == {path.stem for path in KERNEL.glob("*.py")} - {"__init__"}


def test_the_kernel_map_lists_every_function_of_a_file_that_follows_the_kernel_once() -> None:
    functions, _ = kernel_map()
    there = ring_functions({name.partition(".")[0] for name in functions})
    assert sorted(there - set(functions)) == [], "in the ring, not in docs/reference/kernel-map.md"
    assert sorted(set(functions) - there) == [], "in docs/reference/kernel-map.md, not in the ring"
    assert [name for name, same in itertools.groupby(sorted(functions)) if len(list(same)) > 1] == []


def test_the_cost_table_is_that_of_the_program() -> None:
    from epcgroup.sim.cost import profile

    text = (ROOT / "docs/reference/what-is-modelled.md").read_text(encoding="utf-8")
    rows = [
        f"| `{row['item']}` | {row['cycles']:,.0f} | {row['low']:,.0f} to {row['high']:,.0f} | {row['per']} "
        f"| {row['source']} | {row['provenance']} |"
        for row in profile("default").as_table()
    ]
    missing = [row for row in rows if row not in text]
    assert missing == [], "these rows of the table are not as the program has them:\n" + "\n".join(missing)


def test_the_protocol_page_has_the_header_and_the_operations_of_the_program() -> None:
    from epcgroup.live import wire

    text = (ROOT / "docs/reference/live-protocol.md").read_text(encoding="utf-8")
    fields = re.findall(r"^\| (\d+) \| (u32|u64) \| `(\w+)` \|$", text, re.MULTILINE)
    packed = "<" + "".join({"u32": "I", "u64": "Q"}[type] for _, type, _ in fields)
    assert packed == wire._HEADER.format
    assert [int(at) for at, _, _ in fields] == [struct.calcsize(packed[: n + 1]) for n in range(len(fields))]
    assert tuple(name for _, _, name in fields) == wire.Packet._fields[: len(fields)]
    operations = {name: int(op) for op, name in re.findall(r"^\| (\d+) \| `([A-Z]+)` \|", text, re.MULTILINE)}
    assert operations == {
        name: value for name, value in vars(wire).items() if name.isupper() and type(value) is int and "_" not in name
    }
    bounds = f"longer than {wire.MAX_PACKET:,} bytes or with more than {wire.MAX_FDS} descriptors"
    assert bounds in text.replace("\n", " ")


# ---- the runner itself ----------------------------------------------------------------------------


def test_a_block_is_cut_into_commands_with_their_here_documents() -> None:
    commands = list(commands_of("$ cat > a <<'END'\n$ not a command\nEND\n$ cat a\n$ not a command\n"[:-16]))
    assert [c.text for c in commands] == ["cat > a <<'END'\n$ not a command\nEND", "cat a"]


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        (["a", "b"], ["a", "b"], True),
        (["a", "..."], ["a"], True),
        (["a", "...", "d"], ["a", "b", "c", "d"], True),
        (["in ... s"], ["in 3.2 s"], True),
        (["in ... s"], ["in 3.2 ms "], False),
        (["a", "...", "d"], ["a", "b"], False),
        (["a"], ["a", "b"], False),
        ([], ["a"], False),
    ],
)
def test_dots_stand_for_what_is_left_out_and_nothing_else(expected: list[str], got: list[str], same: bool) -> None:
    assert matches(expected, got) is same


def test_a_block_that_lies_is_found(folder: Path) -> None:
    command = Command("echo 2", ["3"])
    assert not matches(command.expected, run(command, folder))
    assert renewed(command.expected, run(command, folder)) == ["2"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_commands_see_the_repository_and_leave_it_alone(folder: Path) -> None:
    assert run(Command("ls -d tests && epcgroup --version && ls *.md"), folder)[:1] == ["tests"]
    assert not (folder / "README.md").exists()
