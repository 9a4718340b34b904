"""What a key does to the view. Pure: the name of a key in, a View out."""

from dataclasses import replace

from epcgroup.top.rows import SORTS
from epcgroup.top.screen import View

PAGE = 10


def press(view: View, key: str, nr_rows: int) -> View | None:
    """The view after a key; None: the user wants out. Keys: a character, or up, down, page-up, page-down, home, end,
    enter, escape, backspace."""
    if view.typing:
        return _type(view, key)
    move = {"up": -1, "down": 1, "page-up": -PAGE, "page-down": PAGE, "home": -nr_rows, "end": nr_rows}.get(key)
    if move is not None:
        if not nr_rows:
            return view
        selected = (-1 if move > 0 else 0) if view.selected is None else min(view.selected, nr_rows - 1)
        return replace(view, selected=max(0, min(nr_rows - 1, selected + move)))
    names = list(SORTS)
    match key:
        case "q":
            return None
        case "/":
            return replace(view, typing=True, match="", selected=None)
        case "escape":
            return replace(view, match="", selected=None)
        case "s" | "S":
            step = 1 if key == "s" else -1
            return replace(view, sort=names[(names.index(view.sort) + step) % len(names)])
        case "r":
            return replace(view, reverse=not view.reverse)
        case "c":
            return replace(view, containers=not view.containers, selected=None)
        case " ":
            return replace(view, paused=not view.paused)
    return view


def _type(view: View, key: str) -> View:
    match key:
        case "enter":
            return replace(view, typing=False)
        case "escape":
            return replace(view, typing=False, match="")
        case "backspace":
            return replace(view, match=view.match[:-1])
    return replace(view, match=view.match + key) if len(key) == 1 and key.isprintable() else view
