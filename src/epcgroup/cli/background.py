"""A command that goes on in the background once it is ready: its first words come back to who started it."""

import os
from collections.abc import Callable
from pathlib import Path

from epcgroup.errors import InputError, MachineError


def start(serve: Callable[[int], int], log: Path | None) -> str:
    """Run `serve(say)` in a process of a session of its own, its output in `log`; what it writes to the descriptor
    `say` until it closes it is the answer. InputError: it said something else than `ready...`."""
    said, say = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        os._exit(_child(serve, log, say))
    os.close(say)
    with os.fdopen(said, encoding="utf-8") as pipe:
        text = pipe.read().strip()
    if not text.startswith("ready"):
        raise InputError(text or "it did not start")
    return text


def _child(serve: Callable[[int], int], log: Path | None, say: int) -> int:
    os.setsid()
    output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for fd, number in ((null, 0), (output, 1), (output, 2)):
        os.dup2(fd, number)
    try:
        return serve(say)
    except (InputError, MachineError, OSError) as error:
        os.write(say, str(error).encode())
        return 2
