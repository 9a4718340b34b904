"""The three families of error, by whose fault they are.

InputError     the user's input: which file, which key, what stood there, what is allowed. The command line prints
               it as one line and exits with status 2.
MachineError   the machine's answer: carries the kernel's errno, the same number a misc.* file returns.
AssertionError our bug. Never caught.
"""

import difflib
import errno as _errno
from collections.abc import Iterable

# Not in Python's errno: the kernel's own, never seen by a user process but printed in op logs.
ERESTARTSYS = 512


def errno_name(number: int) -> str:
    """The name of a positive errno, the kernel-internal ones included."""
    if number == ERESTARTSYS:
        return "ERESTARTSYS"
    return _errno.errorcode.get(number, f"E{number}")


class InputError(ValueError):
    """A fault in what the user handed in, said in one line: `where, key: what is wrong; what is allowed`."""

    def __init__(self, message: str, *, where: object = None, key: str | None = None) -> None:
        place = ", ".join(str(part) for part in (where, key) if part not in (None, ""))
        text = f"{place}: {message}" if place else message
        super().__init__(" ".join(text.split()))


class MachineError(OSError):
    """The machine refused: `errno` is the kernel's number (positive), `strerror` says what was asked."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, f"{what}: {errno_name(number)}")


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean "x"?` for the closest allowed word, or the list of them when none is close."""
    words = list(allowed)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; allowed: {', '.join(words)}"
