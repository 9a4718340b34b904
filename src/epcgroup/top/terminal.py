"""The terminal: draws the lines of screen.py by curses, and tells keys.py which keys were pressed."""

import contextlib
import curses
import select
import sys
import time
from dataclasses import replace

from epcgroup.errors import InputError
from epcgroup.top.keys import press
from epcgroup.top.rows import History, Row, arrange
from epcgroup.top.screen import Line, Style, View, render
from epcgroup.top.sources import Look, Source

_NAMES = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "page-up",
    curses.KEY_NPAGE: "page-down",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
}
_CONTROLS = {"\n": "enter", "\r": "enter", "\x1b": "escape", "\x7f": "backspace", "\b": "backspace"}


def watch(source: Source, view: View, interval: float, blocks: str) -> None:
    """Look every `interval` seconds until the user wants out. InputError: there is no screen to draw on."""
    first = source.look()
    if first is None:
        raise InputError("there is nothing to see: no sample was recorded")
    try:
        curses.wrapper(lambda screen: _Watch(screen, source, first, interval, blocks).run(view))
    except curses.error as error:
        raise InputError(f"this terminal has no screen ({error}); --once prints one table") from None


def _hung_up() -> bool:
    """The terminal has gone: curses would go on without waiting for keys, for ever."""
    poll = select.poll()
    poll.register(sys.stdin, 0)
    return bool(poll.poll(0))


def _colour(pair: int, colour: int) -> int:
    """The attribute of a colour; bold where there are none."""
    if not curses.has_colors():
        return curses.A_BOLD
    curses.use_default_colors()
    curses.init_pair(pair, colour, -1)
    return curses.color_pair(pair)


class _Watch:
    def __init__(self, screen: curses.window, source: Source, first: Look, interval: float, blocks: str) -> None:
        self._screen, self._source, self._interval, self._blocks = screen, source, interval, blocks
        self._history = History()
        self._look, self._rows = first, self._history.add(first)
        self._styles: dict[Style, int] = {"plain": 0, "head": curses.A_BOLD, "selected": curses.A_REVERSE}
        self._styles |= {"warn": _colour(1, curses.COLOR_YELLOW), "bad": _colour(2, curses.COLOR_RED)}
        with contextlib.suppress(curses.error):  # a terminal that always shows its cursor
            curses.curs_set(0)

    def run(self, view: View) -> None:
        due = time.monotonic() + self._interval
        wanted: View | None = view
        while wanted is not None and not _hung_up():
            view = wanted
            if time.monotonic() >= due:
                due = time.monotonic() + self._interval
                view = view if view.paused else self._next(view)
            rows = self._arranged(view)
            self._draw(render(self._look, rows, view, *self._size(), self._blocks))
            self._screen.timeout(max(1, round(1000 * (due - time.monotonic()))))
            key = self._key()
            wanted = view if key is None else press(view, key, len(rows))

    def _next(self, view: View) -> View:
        try:
            look = self._source.look()
        except InputError as error:
            # The daemon may come back; what was seen last stays on the screen.
            self._look = replace(self._look, problems=(str(error),))
            return view
        if look is None:
            return replace(view, ended=True)
        self._look, self._rows = look, self._history.add(look)
        return view

    def _arranged(self, view: View) -> list[Row]:
        return arrange(self._rows, view.sort, reverse=view.reverse, match=view.match, containers=view.containers)

    def _size(self) -> tuple[int, int]:
        height, width = self._screen.getmaxyx()
        return width - 1, max(4, height)  # the last cell of a terminal cannot be written without scrolling

    def _draw(self, lines: list[Line]) -> None:
        self._screen.erase()
        height, width = self._screen.getmaxyx()
        for number, line in enumerate(lines[:height]):
            self._screen.addnstr(number, 0, line.text.ljust(width - 1), width - 1, self._styles[line.style])
        self._screen.refresh()

    def _key(self) -> str | None:
        """The key that was pressed; None when the time for the next look has come."""
        try:
            got = self._screen.get_wch()
        except curses.error:
            return None
        if isinstance(got, int):
            return _NAMES.get(got, "")
        return _CONTROLS.get(got, got)
