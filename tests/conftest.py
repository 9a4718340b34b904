"""What all tests share: machines whose tables are checked when a test is done, and hypothesis without chance."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run: what CI finds, `make test` finds.
settings.register_profile("house", derandomize=True, database=None, deadline=None)
settings.load_profile("house")

# A shell starts its background jobs with SIGINT ignored, which they hand on: what is interrupted here would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Soak tests run when they are asked for: `make soak`, or any other -m."""
    if config.getoption("markexpr"):
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]


@pytest.fixture
def machine() -> Iterator[Callable[..., Any]]:
    """`machine(256)` boots a machine of 256 EPC pages on one node, `machine((0, 16), (1, 16), series="v2")` one of
    two sections (node, pages). All invariants of every machine booted are checked at the end of the test."""
    from epcgroup.kernel.validate import validate_everything
    from epcgroup.machine import Machine, Section

    booted: list[Machine] = []

    def boot(*sections: int | tuple[int, int], **options: Any) -> Machine:
        rows = [Section(0, s) if isinstance(s, int) else Section(*s) for s in sections]
        booted.append(Machine(rows, **options))
        return booted[-1]

    yield boot
    for m in booted:
        validate_everything(m)
