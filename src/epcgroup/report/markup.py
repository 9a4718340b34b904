"""Elements of HTML and SVG as strings that are escaped by construction.

`el` escapes every plain string it is given, as child or attribute; only what is `Html` already stands as it
is. So text from outside needs no care at the place where it is used.
"""

from collections.abc import Iterable
from html import escape

from epcgroup.report.figures import clean

_EMPTY = frozenset({"meta", "path", "rect", "circle"})  # written without a closing tag


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def join(children: Iterable[Child]) -> Html:
    """Children one after the other: None is skipped, lists are laid flat, plain text is escaped."""
    out: list[str] = []
    for child in children:
        if isinstance(child, Html):
            out.append(child)
        elif isinstance(child, str):
            out.append(escape(clean(child), quote=False))
        elif child is not None:
            out.append(join(child))
    return Html("".join(out))


def el(tag: str, *children: Child, **attributes: object) -> Html:
    """One element: `el("td", "web", class_="bad", data_l="pod")`. None and False leave an attribute out,
    True writes its name alone; `_` stands for `-`, a `_` at the end is dropped."""
    head = tag
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        head += " " + name.rstrip("_").replace("_", "-")
        if value is not True:
            head += f'="{escape(clean(str(value)))}"'
    if tag in _EMPTY:
        return Html(f"<{head}/>")
    return Html(f"<{head}>{join(children)}</{tag}>")
