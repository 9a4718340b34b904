"""The command line as a person meets it: help, refusals in one line, exit statuses, `epcgroup replay`.

Most tests call `main` in this process; those about pipes, exit statuses of the process and imports start a real one.
"""

import gzip
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from epcgroup import __version__
from epcgroup.cli.main import SUBCOMMANDS, main
from epcgroup.cli.replay import first_difference

SAMPLES = Path(__file__).parent / "samples"
V17_LOG = SAMPLES / "v17" / "scenario-secs_swap.ops.jsonl.xz"
V2_LOG = SAMPLES / "v2" / "scenario-oom_zap.ops.jsonl.xz"
BOOT = '{"op":"node","sections":[{"node":0,"pages":64}]}\n'


def unpacked(path: Path) -> bytes:
    with lzma.open(path) as file:
        return file.read()


def recorded(ops: Path) -> bytes:
    return unpacked(ops.with_name(ops.name.replace(".ops.", ".out.")))


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Standard error of a command line that is refused: one line, exit status 2."""
    assert main(argv) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if ": series " not in line]
    assert len(lines) == 1, err
    assert lines[0].startswith("epcgroup: ")
    return lines[0]


def started(*argv: str, given: bytes = b"", python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *python, "-m", "epcgroup", *argv]
    return subprocess.run(command, input=given, capture_output=True, timeout=120, check=False)


# ---- help and refusals ---------------------------------------------------------------------------


def test_help_names_every_subcommand() -> None:
    done = started("--help")
    assert done.returncode == 0
    for name, (_, text) in SUBCOMMANDS.items():
        assert name in done.stdout.decode()
        assert text in done.stdout.decode()


@pytest.mark.parametrize("argv", [["--help"], ["--version"], [], *([name, "--help"] for name in SUBCOMMANDS)], ids=str)
def test_help_loads_neither_numpy_nor_numba(argv: list[str]) -> None:
    done = started(*argv, python=("-X", "importtime"))
    imported = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
    assert b"epcgroup.cli.main" in imported
    assert not imported & {b"numpy", b"numba", b"epcgroup.machine"}


def test_every_subcommand_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in SUBCOMMANDS:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: epcgroup {name} ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"epcgroup {__version__}\n"


def test_no_subcommand_is_help_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "subcommands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["reply"], 'no subcommand "reply"; did you mean "replay"?'),
        (["--verison"], 'no option "--verison"; did you mean "--version"?'),
        (["replay", "--serie", "v2", "x"], 'no option "--serie"; did you mean "--series"?'),
        (["replay", "--chekc", "x"], 'no option "--chekc"; did you mean "--check"?'),
        (["replay", "--series", "v3", "x"], "invalid choice: 'v3'"),
        (["replay", "--series"], "expected one argument"),
        (["replay"], "required: LOG"),
    ],
    ids=str,
)
def test_a_wrong_word_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert said in refused(capsys, *argv)


def test_interrupt_is_status_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("epcgroup.cli.main._run", interrupted)
    assert main(["replay", "x"]) == 130
    assert capsys.readouterr().err == "epcgroup: interrupted\n"


def test_a_reader_that_goes_away_is_not_told_about() -> None:
    command = [sys.executable, "-m", "epcgroup", "replay", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(BOOT.encode())
        process.stdin.flush()
        assert process.stdout.readline() == b'{"n":1,"op":"node","ok":true}\n'
        process.stdout.close()
        process.stdin.write(b'{"op":"state"}\n')
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


# ---- replay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [V17_LOG, V2_LOG], ids=lambda path: path.name)
def test_replay_prints_the_recorded_bytes(log: Path) -> None:
    done = started("replay", str(log))
    assert (done.returncode, done.stdout) == (0, recorded(log))


def test_replay_reads_standard_input_plain_and_packed() -> None:
    for given in (unpacked(V2_LOG), V2_LOG.read_bytes(), gzip.compress(unpacked(V2_LOG))):
        done = started("replay", "--series", "v2", "-", given=given)
        assert (done.returncode, done.stdout, done.stderr) == (0, recorded(V2_LOG), b"")


def test_replay_tells_packed_files_by_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = unpacked(V17_LOG)
    for name, content in (("a", gzip.compress(plain)), ("b.gz", plain), ("c", V17_LOG.read_bytes())):
        (tmp_path / name).write_bytes(content)
        assert main(["replay", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == recorded(V17_LOG).decode()


def test_replay_answers_each_line_as_it_comes() -> None:
    command = [sys.executable, "-m", "epcgroup", "replay", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for n, line in enumerate((BOOT, "no op\n", '{"op":"work"}\n'), 1):
            process.stdin.write(line.encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["n"] == n
        process.stdin.close()
    assert process.returncode == 0


def test_replay_is_stopped_by_an_interrupt() -> None:
    command = [sys.executable, "-m", "epcgroup", "replay", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(BOOT.encode())
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"epcgroup: interrupted\n"
    assert process.returncode == 130


def test_the_folder_names_the_series(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(V2_LOG)]) == 0
    assert "series v2, after the folder" in capsys.readouterr().err
    assert main(["replay", "--series", "v2", str(V2_LOG)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no op in it"),
        (b"# only\n\n# remarks\n", "no op in it"),
        (b"a\nb\nc\nd\ne\n" + BOOT.encode(), "none of its first 5 lines is a JSON object"),
        (b"[]\n", "none of its first 1 lines is a JSON object"),
        (b"\xff\xfe\x00", "line 1 is not UTF-8 text"),
        (BOOT.encode() + b"\xe9\n", "line 2 is not UTF-8 text"),
        (V17_LOG.read_bytes()[:-40], "packed data ends early or is damaged"),
        (V17_LOG.read_bytes()[:60] + b"damaged" + V17_LOG.read_bytes()[67:], "packed data ends early or is damaged"),
        (gzip.compress(BOOT.encode(), mtime=0)[:-9], "packed data ends early or is damaged"),
        (gzip.compress(BOOT.encode(), mtime=0)[:-8] + b"12345678", "packed data ends early or is damaged"),
        (b"\xfd7zXZ\x00", "packed data ends early or is damaged"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_file_that_is_no_log_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(content)
    line = refused(capsys, "replay", str(log))
    assert said in line
    assert str(log) in line


def test_a_log_that_is_not_there_or_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(capsys, "replay", str(tmp_path / "log"))
    assert "a folder, not an op log" in refused(capsys, "replay", str(tmp_path))
    assert "one LOG at a time" in refused(capsys, "replay", str(V2_LOG), str(V17_LOG))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_log_one_may_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").touch(mode=0)
    assert "permission denied" in refused(capsys, "replay", str(tmp_path / "log"))


def test_nothing_on_standard_input() -> None:
    done = started("replay", "-")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"epcgroup: standard input: no op in it\n")


def test_an_op_outside_the_enclave_is_a_result_and_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(BOOT + '{"op":"enclave_create","id":"e","pages":16}\n{"op":"touch","id":"e","page":99}\n')
    assert main(["replay", str(log)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["errno"] == "SEGV"


# ---- replay --check ------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A recorded log, unpacked, in a folder that names no series; its ops are returned."""
    (tmp_path / "log.out.jsonl").write_bytes(recorded(V2_LOG))
    (tmp_path / "log.ops.jsonl").write_bytes(unpacked(V2_LOG))
    return tmp_path / "log.ops.jsonl"


def test_check_of_logs_that_match(capsys: pytest.CaptureFixture[str]) -> None:
    logs = sorted((SAMPLES / "v2").glob("s*.ops.jsonl.xz"))
    assert main(["replay", "--check", *map(str, logs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [log.name.partition(".")[0] for log in logs]
    assert all(line.endswith(" lines match") for line in lines)


def test_check_takes_unpacked_logs(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--check", "--series", "v2", str(pair)]) == 0
    assert capsys.readouterr().out == "log: all 14 lines match\n"


def test_check_shows_the_first_difference(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = pair.with_name("log.out.jsonl")
    lines = out.read_text().splitlines()
    state = next(i for i, line in enumerate(lines) if '"state":{' in line)
    result = json.loads(lines[state])
    result["state"]["cgroups"][1]["usage"] += 4096
    lines[state] = json.dumps(result, separators=(",", ":"))
    out.write_text("\n".join(lines) + "\n")
    assert main(["replay", "--check", "--series", "v2", str(pair)]) == 1
    shown = capsys.readouterr().out.splitlines()
    usage = result["state"]["cgroups"][1]["usage"]
    assert shown[0].startswith(f"log: line {state + 1} differs: " + '{"op":"state"')
    assert shown[1:] == [
        "  field    state.cgroups[/a].usage",
        f"  expected {usage}",
        f"  got      {usage - 4096}",
    ]


def test_check_shows_what_is_not_there(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = pair.with_name("log.out.jsonl")
    out.write_text(out.read_text().replace('"ok":true', '"ok":true,"more":1', 1))
    assert main(["replay", "--check", "--series", "v2", str(pair)]) == 1
    assert capsys.readouterr().out.endswith("  field    more\n  expected 1\n  got      (not there)\n")


def test_check_looks_at_the_order_of_fields_too(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = pair.with_name("log.out.jsonl")
    out.write_text(out.read_text().replace('"n":1,"op":"node"', '"op":"node","n":1', 1))
    assert main(["replay", "--check", "--series", "v2", str(pair)]) == 1
    assert "order of the fields" in capsys.readouterr().out


def test_check_with_the_wrong_series_says_which_is_right(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--check", str(pair)]) == 1
    assert "  this log was recorded with v2: --series v2\n" in capsys.readouterr().out
    shutil.copy(V17_LOG, pair.with_name("b.ops.jsonl"))
    pair.with_name("b.out.jsonl").write_bytes(recorded(V17_LOG))
    assert main(["replay", "--check", "--series", "v2", str(pair.with_name("b.ops.jsonl"))]) == 1
    assert "  this log was recorded with v17: --series v17\n" in capsys.readouterr().out


def test_check_goes_on_after_a_log_that_differs(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = pair.with_name("log.out.jsonl")
    out.write_text(out.read_text().replace('"ok":true', '"ok":false', 1))
    assert main(["replay", "--check", "--series", "v2", str(pair), str(V2_LOG)]) == 1
    assert capsys.readouterr().out.endswith("scenario-oom_zap: all 14 lines match\n")


@pytest.mark.parametrize(
    ("name", "said"), [("log.ops.jsonl", "ends after 13 ops"), ("log.out.jsonl", "ends after 13 results")]
)
def test_check_of_a_truncated_log(pair: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    short = pair.with_name(name)
    short.write_text("".join(short.read_text().splitlines(keepends=True)[:-1]))
    line = refused(capsys, "replay", "--check", "--series", "v2", str(pair))
    assert said in line
    assert line.startswith(f"epcgroup: {short}: ")


def test_check_needs_recorded_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in (("log.ops.jsonl", "no recorded results log.out.jsonl"), ("log.jsonl", "NAME.ops.jsonl")):
        (tmp_path / name).write_text(BOOT)
        assert said in refused(capsys, "replay", "--check", str(tmp_path / name))
    (tmp_path / "log.out.jsonl").write_text("no result\n")
    assert "line 1 is no result" in refused(capsys, "replay", "--check", str(tmp_path / "log.ops.jsonl"))


def test_where_a_kernel_died_only_errno_counts() -> None:
    expected = {"n": 1, "op": "touch", "done": 4, "ok": False, "errno": "HANG", "d": {"fault": 9}}
    assert first_difference(expected, {"n": 1, "op": "touch", "ok": False, "errno": "HANG"}) is None
    difference = first_difference(expected, {"n": 1, "op": "touch", "ok": False, "errno": "OOPS"})
    assert difference == ("errno", "HANG", "OOPS")


def test_true_is_not_one() -> None:
    assert first_difference({"a": [True]}, {"a": [1]}) == ("a[0]", True, 1)
    assert first_difference({"a": [1]}, {"a": [1]}) is None
