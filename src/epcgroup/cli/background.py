"""A command that goes on in the background once it is ready: its first words come back to who started it."""

import os
from collections.abc import Callable
from pathlib import Path

from epcgroup.errors import InputError, MachineError


class Voice:
    """Where a command says that it is ready, once: standard output, or the pipe of who started it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, text: str) -> None:
        fd, self._fd = self._fd, 2
        os.write(fd, text.encode(errors="backslashreplace"))  # a path need not be UTF-8
        if fd > 2:
            os.close(fd)


def start(serve: Callable[[Voice], int], log: Path | None) -> str:
    """Run `serve` in a process of a session of its own, its output in `log`; what it says is the answer. InputError:
    it said something else than `ready...`, or the log cannot be written."""
    try:
        output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=log) from error
    said, say = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        os._exit(_child(serve, output, Voice(say)))
    os.close(output)
    os.close(say)
    with os.fdopen(said, encoding="utf-8") as pipe:
        text = pipe.read().strip()
    if not text.startswith("ready"):
        raise InputError(text or "it did not start" + (f"; see {log}" if log else ""))
    return text


def _child(serve: Callable[[Voice], int], output: int, voice: Voice) -> int:
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for fd, number in ((null, 0), (output, 1), (output, 2)):
        os.dup2(fd, number)
    try:
        return serve(voice)
    except (InputError, MachineError, OSError) as error:
        voice.say(f"{error}\n")
        return 2
