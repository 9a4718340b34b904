"""The repository's own rules: rooms and who may import whom, what opens a file, what is said where."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from epcgroup.cli.main import SUBCOMMANDS

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "epcgroup").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_rooms_import_only_downwards() -> None:
    """The contracts of .importlinter."""
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_opens_with_its_promise(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "no docstring at the top"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_error_is_swallowed(path: Path) -> None:
    """No bare `except` and none for Exception: whose fault an error is, is decided where it is known."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type is not None else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"line {node.lineno} catches {caught}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_left_to_do_in_the_source(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert "TODO" not in line and "FIXME" not in line and "XXX" not in line, f"line {number}"


def test_every_subcommand_is_in_the_table() -> None:
    """A file of the command line with a `main` is one, and has `set_arguments`."""
    files = set()
    for path in (ROOT / "src" / "epcgroup" / "cli").glob("*.py"):
        functions = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")}
        if "main" in functions and path.stem != "main":
            assert "set_arguments" in functions, path
            files.add(f"epcgroup.cli.{path.stem}")
    assert {module for module, _ in SUBCOMMANDS.values()} == files


@pytest.mark.parametrize("room", ["manifest", "report", "trace", "interface", "units", "errors"])
def test_readers_and_reports_never_load_numba(room: str) -> None:
    modules = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if path.relative_to(ROOT / "src" / "epcgroup").with_suffix("").parts[0] == room
    ]
    assert modules
    code = f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\nassert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
