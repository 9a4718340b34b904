"""Run by a Python interpreter before its program, because `epcgroup python` puts this folder first in PYTHONPATH.

It puts the program's arrays into an enclave of $EPCGROUP_HEAP bytes and hides its traces: sys.path, PYTHONPATH and the
host's own sitecustomize are as without it, so that all that follows is what `python SCRIPT.py` does. Children of the
program are ordinary ones. When the enclave cannot be had the program is not run: one line, exit status 2.
"""

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn


def _leave_the_path() -> None:
    sys.path.remove(str(Path(__file__).parent))
    _, _, before = os.environ.pop("PYTHONPATH").partition(os.pathsep)
    if before:
        os.environ["PYTHONPATH"] = before


def _put_arrays_in(size: int) -> None:
    from epcgroup.errors import InputError
    from epcgroup.live.client import Enclave
    from epcgroup.live.numpy_memory import put_all_arrays_in
    from epcgroup.units import format_bytes

    try:
        put_all_arrays_in(Enclave(size))
    except InputError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"no enclave of {format_bytes(size)} for the arrays: {error.strerror}")


def _refuse(text: str) -> NoReturn:
    print(f"epcgroup: {text}", file=sys.stderr, flush=True)
    os._exit(2)  # an exception would be caught by site.py, and the program run on ordinary memory


def _let_in_what_this_file_shadows() -> None:
    us = sys.modules.pop("sitecustomize")
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError as error:
        sys.modules["sitecustomize"] = us
        if error.name != "sitecustomize":
            raise


_done = False
try:
    _leave_the_path()
    _put_arrays_in(int(os.environ.pop("EPCGROUP_HEAP")))
    _done = True
finally:
    if not _done:
        traceback.print_exc()
        _refuse("the arrays cannot be put into an enclave")
_let_in_what_this_file_shadows()
