"""Signals that would end a command half way, noted instead: it looks at them between two steps."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def noted() -> Iterator[list[int]]:
    """SIGINT, SIGTERM and SIGHUP that came, in their order."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
