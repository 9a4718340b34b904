"""The self-test plan of the series (docs/examples/selftest.py): live, simulated, and what it depends on."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from mounted import lacking, live_files, mounted, write

from epcgroup.kernel.validate import validate_everything
from epcgroup.live import probe
from epcgroup.machine import Machine, Section
from epcgroup.units import PAGE_SIZE

SCRIPT = Path(__file__).parents[2] / "docs/examples/selftest.py"
NO_FILES = lacking()
NO_LIVE = NO_FILES or probe.missing()
PASSED = """\
enclaves of 16 MiB; small 32 KiB, large 128 KiB, larger 16384 KiB
1  small   1 process    1 ENOMEM: it fails                              ok
2  large   4 processes  3 succeed, 1 ENOMEM: at least one succeeds      ok
3  large   5 processes  3 succeed, 2 ENOMEM: at least one fails         ok
4  larger  8 processes  8 succeed: none fails                           ok
5  larger  8 processes  7 succeed, 1 killed: none of the others fails   ok
6  large, memory.max    not here: pages that are written out are no memory of the group
7  all                  0 bytes are left charged: none is               ok
"""
NR_PAGES = 4096  # of the EPC, and of an enclave
LARGE = 4 * NR_PAGES // 512


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("selftest", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def carried_out(place: Path, seed: int, run: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, str(place), str(seed)],
        env={**os.environ, "EPCGROUP_RUN": run}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.skipif(NO_LIVE is not None, reason=str(NO_LIVE))
def test_the_plan_passes_with_real_processes_whoever_is_killed_when() -> None:
    with live_files("16Mi") as (place, run):
        for seed in (1, 2, 3):
            done = carried_out(place, seed, run)
            assert (done.stdout, done.stderr, done.returncode) == (PASSED, "", 0)
            assert not (place / "sgx_kselftest").exists()


@pytest.mark.skipif(NO_FILES is not None, reason=str(NO_FILES))
def test_the_plan_passes_on_a_simulated_machine_with_the_same_counts(tmp_path: Path) -> None:
    with mounted(tmp_path / "cgroup", "--epc", "16Mi") as place:
        done = carried_out(place, 1)
        assert (done.stdout, done.stderr, done.returncode) == (PASSED, "", 0)
        assert (place / "epcgroup.control").read_text() == ""
        assert not (place / "sgx_kselftest").exists()


@pytest.mark.skipif(NO_FILES is not None, reason=str(NO_FILES))
def test_a_plan_that_does_not_hold_fails_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(tmp_path / "cgroup", "--epc", "16Mi") as place:
        plan = script().Plan(place, 1)
        plan.sizes["large"] = plan.sizes["small"]  # nobody finds room for an enclave there
        plan.set_up()
        assert plan.run() is False
        plan.clean_up()
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAIL")]
    assert failed == ["2  large   4 processes  4 ENOMEM: at least one succeeds                 FAIL"]


@pytest.mark.skipif(NO_LIVE is not None, reason=str(NO_LIVE))
def test_who_waits_for_ever_by_the_daemons_account_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """v17 refuses a fault for the parent's limit, and reclaims nothing in the child, which is below it."""
    selftest = script()
    with live_files("16Mi") as (place, run):
        monkeypatch.setenv("EPCGROUP_RUN", run)
        parent = place / "parent"
        processes = []
        try:
            for name in ("a", "b"):
                (parent / name).mkdir(parents=True)
                write(parent / "cgroup.subtree_control", "+misc")
                processes.append(selftest.Process(parent / name, 4 << 20))
            write(parent / "misc.max", f"sgx_epc {6 << 20}")
            for process in processes:
                process.tell("build")
                assert process.hear() == "succeed"
            write(parent / "misc.max", (parent / "misc.current").read_text())
            processes[1].tell("store")
            assert processes[1].hear() == "waits for ever"
        finally:
            for process in processes:
                process.end()


def in_large(nr_enclaves: int) -> tuple[Machine, list[str]]:
    """A machine with enclaves as large as its EPC, nothing of them built, in a cgroup with the limit of "large"."""
    machine = Machine([Section(0, NR_PAGES)])
    machine.mkdir("/large")
    machine.set_limit("/large", LARGE * PAGE_SIZE)
    names = [f"e{i}" for i in range(nr_enclaves)]
    for name in names:
        machine.enclave_create(name, "/large", NR_PAGES)
    return machine, names


def built_in_lockstep(nr_enclaves: int, *, they_stay: bool) -> dict[str, str]:
    """How it ends for enclaves that build 64 pages in turn. `they_stay`: who is refused does not leave."""
    machine, names = in_large(nr_enclaves)
    done = dict.fromkeys(names, 0)
    results: dict[str, str] = {}
    while len(results) < nr_enclaves:
        for name in [name for name in names if name not in results]:
            batch = machine.add_pages(name, done[name], 64)
            done[name] += batch.done
            if batch.stop is not None:
                results[name] = batch.stop
                if not they_stay:
                    machine.close(name)
            elif done[name] == NR_PAGES:
                results[name] = "built"
    validate_everything(machine)
    return results


def test_step_two_is_about_a_schedule() -> None:
    """The plan asks that at least one of four succeeds. Each needs 9 pages that stay, of 32."""
    gone_at_once = built_in_lockstep(4, they_stay=False)
    assert sorted(gone_at_once.values()) == ["ENOMEM", "built", "built", "built"]
    assert set(built_in_lockstep(4, they_stay=True).values()) == {"ENOMEM"}


def test_a_complete_enclave_gets_sigbus_while_one_that_was_refused_has_not_left() -> None:
    machine, names = in_large(4)
    for name in names[:3]:
        assert machine.add_pages(name, 0, NR_PAGES).done == NR_PAGES
        machine.init(name)
    assert machine.add_pages(names[3], 0, NR_PAGES).stop == "ENOMEM"
    assert machine.usage_bytes("/large") == 31 * PAGE_SIZE
    assert machine.fault(names[0], 0, retry=16) == "SIGBUS"  # its SECS is back, and nothing can go for the page
    assert machine.usage_bytes("/large") == 32 * PAGE_SIZE
    machine.close(names[3])
    assert machine.usage_bytes("/large") == 28 * PAGE_SIZE
    assert machine.fault(names[0], 0, retry=16) is None
    validate_everything(machine)
