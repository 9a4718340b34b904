"""The client in C of docs/examples compiles without a warning, pages, and says what it was refused."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "docs" / "examples" / "client.c"
CC = shutil.which("cc")

pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler (cc)")


@pytest.fixture
def client(tmp_path: Path) -> Path:
    assert CC is not None
    program = tmp_path / "client"
    done = subprocess.run(
        [CC, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(SOURCE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return program


RUN = "import subprocess\ndone = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n" + (
    "say(done.returncode, repr(done.stdout + done.stderr))\n"
)


def test_memory_over_the_limit_is_paged_and_comes_back_as_written(live: Callable[..., Any], client: Path) -> None:
    node = live(512)
    node.limit("/g", 128)
    process = node.client(RUN, str(client), "2", group="/g")
    assert process.line() == r"0 '512 of 512 pages are as written\n'"
    assert process.ended() == 0
    node.settle()
    counted = node.counters("/g")
    assert counted["added"] == 512
    # The second pass finds at most the last 126 pages.
    assert counted["loads"] >= 512 - 126
    assert node.daemon.revoked == node.daemon.dropped == 0


def test_it_says_what_the_daemon_refused(live: Callable[..., Any], client: Path) -> None:
    node = live(512)
    node.limit("/g", 0)
    process = node.client(RUN, str(client), "2", group="/g")
    assert process.line() == r"2 'client: create: Cannot allocate memory\n'"
    assert process.ended() == 0


def test_it_says_that_there_is_no_daemon(client: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "EPCGROUP_RUN": str(tmp_path)}
    done = subprocess.run([client], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"client: {tmp_path}/socket: No such file or directory\n"
