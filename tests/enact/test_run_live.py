"""`epcgroup run --live` as a person sees it: one table of both, kept and shown again; refusals in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from epcgroup.cli.main import main
from epcgroup.live import cgroups, probe

ROOT = Path(__file__).parents[2]

SCENARIO = """
title = "one that pages"
[node]
epc = "4Mi"
[run]
duration = "1s"
compare = ["alone", "claims"]
[[pods]]
name = "a"
claim = "256Ki"
use = "1Mi"
workload = "uniform:touch_ns=20000"
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    file = tmp_path / "s.toml"
    file.write_text(SCENARIO)
    return file


def skip_where_it_cannot() -> None:
    lacking = probe.missing() or (None if cgroups.mount_point() else "no cgroup2 is mounted")
    if lacking is not None:
        pytest.skip(lacking)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_a_live_run_is_printed_kept_and_shown_again(scenario: Path, tmp_path: Path) -> None:
    skip_where_it_cannot()
    kept, page = tmp_path / "kept.run", tmp_path / "page.html"
    epcgroup = [sys.executable, "-m", "epcgroup"]
    first = subprocess.run(
        [*epcgroup, "run", "--live", "--quiet", str(scenario), "--save", str(kept), "--html", str(page)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "each pod alone on the node (mainline, live)" in first.stdout
    assert "all pods, limits = claims (v17, live)" in first.stdout
    assert "page-ins /1000 touches" in first.stdout
    assert 'profile "live"; check value: a reload fault with one eviction = 36,000 cycles' in first.stdout
    assert "published" not in first.stdout
    assert "<h2>Predicted beside measured</h2>" in page.read_text()
    again = subprocess.run([*epcgroup, "report", str(kept)], capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout
    shown = subprocess.run([*epcgroup, "report", "--json", str(kept)], capture_output=True, text=True, check=True)
    data = json.loads(shown.stdout)
    assert [(run["label"], run["live"]) for run in data["runs"]] == [
        ("alone:a", False),
        ("claims", False),
        ("live alone:a", True),
        ("live claims", True),
    ]
    assert data["config"]["live"]["cgroups_below"] == "/epcgroup-run-PID"
    (limited,) = [pair["pods"][0] for pair in data["predicted_and_measured"] if pair["run"] == "claims"]
    predicted, measured = limited["page_ins_per_1000_touches"]
    assert measured == pytest.approx(predicted, rel=0.25)
    assert predicted > 500


def test_options_that_do_not_go_together_are_refused(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "run", "--copy-out", str(scenario))
    assert said == "epcgroup: --copy-out: goes with --live\n"
    said = refused(capsys, "run", "--live", "--cpus", "4", str(scenario))
    assert said == "epcgroup: --cpus: does not go with --live: processes run on this host's CPUs\n"


def test_a_host_that_cannot_is_told_so_before_anything_runs(
    scenario: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "missing", lambda: "root: uid 1000; run as root: sudo epcgroup ...")
    said = refused(capsys, "run", "--live", str(scenario))
    assert said == "epcgroup: --live: root: uid 1000; run as root: sudo epcgroup ...\n"


def test_the_live_profile_is_for_the_simulation_too(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--quiet", "--costs", "live", str(scenario)]) == 0
    assert 'profile "live"; check value' in capsys.readouterr().out


def test_a_run_that_is_interrupted_while_its_daemon_starts_waits_for_nothing(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon of this test never gets ready: ^C comes first."""
    skip_where_it_cannot()
    never = tmp_path / "python"
    never.write_text("#!/bin/sh\nkill -INT $PPID\nexec sleep 100000\n")
    never.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(never))
    page = tmp_path / "page.html"
    assert main(["run", "--live", "--quiet", str(scenario), "--html", str(page)]) == 130
    out, err = capsys.readouterr()
    assert "interrupted before it began" in out and err == f"page: {page}\n"
    assert "interrupted before it began" in page.read_text()
    mount = cgroups.mount_point()
    assert mount is not None and not (mount / f"epcgroup-run-{os.getpid()}").exists()


def make_demo(folder: Path, *argv: str) -> "subprocess.CompletedProcess[str]":
    """`make demo` in a folder where everything is installed already."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    (folder / "pyproject.toml").touch()
    epcgroup = folder / "epcgroup"
    epcgroup.write_text(f'#!/bin/sh\nexec {sys.executable} -m epcgroup "$@"\n')
    epcgroup.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    installed = (f"VENV={folder}", f"BIN={folder}", f"INSTALLED={epcgroup}")
    return subprocess.run(
        ["make", "--file", str(ROOT / "Makefile"), *installed, "demo", *argv],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_make_demo_runs_scenarios_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    recipe = make_demo(tmp_path, "--dry-run").stdout
    scenarios = re.findall(r"epcgroup run (?:--live )?(\S+)", recipe)
    assert scenarios == ["scenarios/noisy-neighbour.toml", "scenarios/two-neighbours.toml"]
    assert all((ROOT / scenario).is_file() for scenario in scenarios)


def test_make_demo_shows_simulated_and_live_side_by_side(scenario: Path, tmp_path: Path) -> None:
    skip_where_it_cannot()
    ran = make_demo(tmp_path, f"DEMO={scenario}", f"LIVE_DEMO={scenario}")
    assert "all pods, limits = claims (v17, live)" in ran.stdout
    assert "<h2>Predicted beside measured</h2>" not in (tmp_path / "out" / "demo.html").read_text()
    assert "<h2>Predicted beside measured</h2>" in (tmp_path / "out" / "live.html").read_text()


def test_make_demo_goes_on_where_the_host_cannot_run_it_live(scenario: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"  # exit status 2, as on a host that cannot
    broken.write_text("[node]\n")
    ran = make_demo(tmp_path, f"DEMO={scenario}", f"LIVE_DEMO={broken}")
    assert (tmp_path / "out" / "demo.html").exists() and not (tmp_path / "out" / "live.html").exists()
    assert "epcgroup: " in ran.stderr
