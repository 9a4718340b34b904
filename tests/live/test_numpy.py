"""`epcgroup python` and numpy_memory: ordinary numpy programs on enclave memory do what they do without."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from epcgroup.cli.main import main
from epcgroup.errors import InputError

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"


class Ended(NamedTuple):
    status: int
    out: str
    err: str
    used: dict[str, int]  # the group's counters


def python(live: Any, *words: str, folder: Path | None = None, **options: Any) -> Ended:
    """`epcgroup python` in a group of the test that goes on after it, the daemon turning meanwhile."""
    group = live.group("python").path  # skips without cgroup2
    command = ["epcgroup", "python", "--directory", live.directory, "--group", group, "--heap", "16Mi", *words]
    before = live.counters("python")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        popen = subprocess.Popen([sys.executable, "-m", *command], stdout=out, stderr=err, cwd=folder, **options)
        try:
            live.until(lambda: popen.poll() is not None)
        finally:
            if popen.poll() is None:
                popen.terminate()  # passed on to the program
                live.until(lambda: popen.poll() is not None)
        for file in (out, err):
            file.seek(0)
        used = {name: count - before[name] for name, count in live.counters("python").items()}
        return Ended(popen.returncode, out.read(), err.read(), used)


def plain(*words: str, folder: Path | None = None) -> Ended:
    """The same without us."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    return Ended(done.returncode, done.stdout, done.stderr, {})


def without_our_line(err: str) -> str:
    *lines, last = err.splitlines(keepends=True)
    assert last.startswith("epcgroup: /epcgroup-test-"), err
    return "".join(lines)


# ---- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear_algebra", "sort_and_search", "image"])
def test_a_numpy_program_prints_the_same_at_every_limit(live: Any, name: str) -> None:
    node = live(4096)
    script = str(EXAMPLES / f"{name}.py")
    expected = plain(script)
    assert expected.status == 0 and len(expected.out.splitlines()) >= 4
    loads = []
    for limit in ("max", "1536Ki", "1Mi"):
        ended = python(node, "--epc", limit, script)
        assert (ended.status, ended.out) == (0, expected.out), ended.err
        assert ended.used["added"] > 2 * 256  # twice what the last limit holds
        loads.append(ended.used["loads"])
    assert loads[0] == 0 < min(loads[1:])


def test_arrays_of_all_threads_are_in_the_enclave(live: Any) -> None:
    ended = python(
        live(1024),
        "-c",
        "import threading, numpy\n"
        "def work(): print(numpy._core.multiarray.get_handler_name(numpy.ones(3)))\n"
        "work(); t = threading.Thread(target=work); t.start(); t.join()",
    )
    assert ended.out == "epcgroup\nepcgroup\n"


def test_all_arrays_are_put_into_one_enclave_only(live: Any) -> None:
    """What is in the first one would be freed as if it were in the second."""
    code = (
        "from epcgroup.live.client import Enclave\n"
        "from epcgroup.live.numpy_memory import put_all_arrays_in\n"
        "try: put_all_arrays_in(Enclave(1 << 20))\n"
        "except RuntimeError as error: print(error)"
    )
    assert python(live(256), "-c", code).out == "numpy's default allocator has been replaced already\n"


def test_an_array_of_zeros_takes_no_page_until_it_is_touched(live: Any) -> None:
    ended = python(live(1024), "-c", "import numpy; a = numpy.zeros(1 << 20); a[:: 1 << 16] = 1; print(len(a))")
    assert ended.out == "1048576\n"
    assert 16 <= ended.used["added"] < 24  # those touched, and numpy's small arrays; the whole array has 2,048


def test_a_full_heap_is_a_memory_error_and_the_program_goes_on(live: Any) -> None:
    code = (
        "import numpy\ntry: numpy.ones(1 << 22)\nexcept MemoryError as error: print(error)\nprint(numpy.ones(9).sum())"
    )
    ended = python(live(1024), "-c", code)
    assert ended.out == ("Unable to allocate 32.0 MiB for an array with shape (4194304,) and data type float64\n9.0\n")


# ---- like python SCRIPT -----------------------------------------------------------------------------

LOOK = """
import os, sys
print(sys.argv, sys.path, __name__, globals().get("__file__"), __spec__ and __spec__.name, sys.orig_argv, sys.flags)
print(sys.modules["__main__"].__dict__ is globals(), os.environ.get("PYTHONPATH"), os.environ.get("EPCGROUP_HEAP"))
sys.exit(len(sys.argv))
"""


@pytest.mark.parametrize("how", ["script", "module", "code"])
def test_a_program_sees_what_it_sees_when_python_runs_it(live: Any, how: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "look.py").write_text(LOOK)
    words = {"script": ["folder/look.py"], "module": ["-m", "folder.look"], "code": ["-c", LOOK]}[how]
    words += ["--epc", "-m", "x"]
    ended = python(live(256), *words, folder=tmp_path)
    expected = plain(*words, folder=tmp_path)
    assert (ended.status, ended.out) == (expected.status, expected.out)
    assert (ended.status == 4 and str(tmp_path) in ended.out) or how == "code"


def test_an_exception_is_printed_as_python_prints_it(live: Any, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("import numpy\ndef f():\n    return numpy.ones(3) @ numpy.ones(4)\nf()\n")
    ended, expected = python(live(256), "fails.py", folder=tmp_path), plain("fails.py", folder=tmp_path)
    assert ended.status == expected.status == 1
    assert without_our_line(ended.err) == expected.err and "line 3, in f" in expected.err


@pytest.mark.parametrize(
    ("code", "status"),
    [("raise SystemExit('over')", 1), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 15)", 128 + 15)],
)
def test_the_exit_status_is_the_programs(live: Any, code: str, status: int) -> None:
    assert python(live(256), "-c", code).status == status


def test_a_keyboard_interrupt_reaches_the_program_while_it_makes_arrays(live: Any) -> None:
    code = (
        "import _thread, numpy\n"
        "for i in range(200):\n"
        "    try:\n"
        "        for n in range(50):\n"
        "            if n == i % 50: _thread.interrupt_main()\n"
        "            numpy.arange(n); numpy.zeros(n)\n"
        "        print('lost')\n"
        "    except KeyboardInterrupt: pass\n"
        "print('done')"
    )
    assert python(live(256), "-c", code).out == "done\n"


def test_arrays_that_outlive_everything_do_no_harm(live: Any) -> None:
    """Freed by the garbage collector, at exit, or never; of numbers and of objects."""
    code = (
        "import atexit, sys, numpy\n"
        "class Node: pass\n"
        "a = Node(); a.me, a.data = a, numpy.ones(5000); del a\n"
        "sys.kept = [numpy.ones(5000), numpy.array([object() for i in range(999)])]\n"
        "numpy.kept = numpy.arange(5000)\n"
        "atexit.register(lambda data=numpy.ones(5000): print(data.sum() + numpy.ones(50).sum()))\n"
        "class Last:\n"
        "    def __init__(self): self.data = numpy.ones(7000)\n"
        "    def __del__(self): self.data *= 2; self.data.resize(9000, refcheck=False)\n"
        "sys.last = Last(); x = Last()"
    )
    ended = python(live(256), "-c", code)
    assert (ended.status, ended.out, without_our_line(ended.err)) == (0, "5050.0\n", "")


def test_a_forked_child_has_ordinary_arrays_and_so_have_other_programs(live: Any) -> None:
    code = (
        "import os, subprocess, sys, numpy\n"
        "mine = numpy.ones(1000)\n"
        "if os.fork() == 0:\n"
        "    del mine\n"
        "    os._exit(int(numpy.ones(100_000).sum() == 100_000))\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]), mine.sum(), flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'import numpy; print(numpy._core.multiarray.get_handler_name())'])"
    )
    assert python(live(256), "-c", code).out == "1 1000.0\ndefault_allocator\n"


# ---- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "no program; epcgroup python --epc 8Mi SCRIPT.py"),
        (["none.py"], "none.py: no such program"),
        (["--epc", "512Ki", "-c", "pass"], "--epc: 512Ki is too little to run numpy in; the least is 1Mi"),
        (["--heap", "0", "-c", "pass"], "--heap: 0 is not between 1Mi and 64Gi"),
        (["-c", "pass"], "{}: no daemon; epcgroup up --epc 64Mi starts one"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["python", "--directory", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err == f"epcgroup: {text.format(tmp_path)}\n"


def test_a_program_without_its_enclave_is_not_run(live: Any) -> None:
    """The group's limit leaves no room for a SECS."""
    node = live(256)
    node.limit("python", 1)
    ended = python(node, "-c", "print('ran')")
    assert (ended.status, ended.out) == (2, "")
    refusal = "epcgroup: no enclave of 16 MiB for the arrays: Cannot allocate memory\n"
    assert without_our_line(ended.err) == refusal


@pytest.mark.parametrize(
    ("where", "what", "value", "text"),
    [
        ("numpy._core._multiarray_umath", "_ARRAY_API", None, "has no C-API table where numpy 2 has it"),
        ("epcgroup.live.numpy_memory", "_VERSION", 2, "has data allocators of version 1, not 2"),
    ],
)
def test_another_numpy_is_refused(
    monkeypatch: pytest.MonkeyPatch, where: str, what: str, value: object, text: str
) -> None:
    from epcgroup.live import numpy_memory

    if value is None:
        monkeypatch.delattr(f"{where}.{what}")
    else:
        monkeypatch.setattr(f"{where}.{what}", value)
    with pytest.raises(InputError, match=text):
        numpy_memory.put_all_arrays_in(None)  # type: ignore[arg-type]


# ---- the library -----------------------------------------------------------------------------------


def test_arrays_made_within_the_block_are_in_the_enclave_and_may_outlive_it(live: Any) -> None:
    node = live(1024)
    client = node.client(
        "import numpy\n"
        "from epcgroup.live.numpy_memory import arrays_in\n"
        "name = lambda a: numpy._core.multiarray.get_handler_name(a)\n"
        "before = numpy.arange(1000)\n"
        "with Enclave(1 << 22) as enclave:\n"
        "    with arrays_in(enclave):\n"
        "        inside = numpy.arange(1000)\n"
        "        before.resize(2000, refcheck=False)\n"
        "    after = numpy.arange(1000)\n"
        "    inside.resize(9000, refcheck=False)\n"
        "    say(name(before), name(inside), name(after), inside.sum(), before.sum(), inside.ctypes.data % 64)\n"
        "    del inside\n"
        "say('done')"
    )
    assert client.line() == "default_allocator epcgroup default_allocator 499500 499500 0"
    assert client.line() == "done"
    assert client.ended() == 0
