"""Comparators in C, built with the machine's compiler into a cache folder."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path


class NotThere(Exception):
    """Why a comparator cannot be used here."""


def built(source: Path, flags: list[str], suffix: str = "") -> Path:
    """The program (or library) of one source file; `flags` come before and after it, so that libraries are found."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NotThere("no C compiler (Debian: apt-get install gcc)")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epcgroup"
    target = home / f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}{suffix}"
    if not target.exists():
        home.mkdir(parents=True, exist_ok=True)
        command = [compiler, "-o", target, source, *flags]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            errors = [line for line in made.stderr.splitlines() if "error:" in line]
            raise NotThere(f"{compiler} failed: {(errors or made.stderr.splitlines())[0].strip()}")
    return target
