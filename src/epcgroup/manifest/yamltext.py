"""YAML text to plain Python values, safe on any text: what manifests need of it and no more.

Values are dict (text keys), list, str, int, float, bool and None; aliases are shared, not copied. Built from
parser events rather than PyYAML's constructors: no tag runs code or fails in its own way, nothing recurses,
and every fault is one InputError with its line. Duplicate keys are faults, as `kubectl apply` sees them.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from epcgroup.errors import InputError
from epcgroup.units import quoted

MAX_DEPTH = 200
MAX_MERGED_KEYS = 10_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_INT = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_GIVEN = object()
_MERGE = object()  # stands for the key `<<`


class Mapping(dict[str, Any]):
    """A dict that knows where its keys stand: `lines`, of the file, by key."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


def line_of(value: object, key: str) -> int | None:
    """The line of a key in a mapping that was read from YAML; None for what is not known, as of JSON."""
    return value.lines.get(key) if isinstance(value, Mapping) else None


class NotYaml(InputError):
    """The text is no YAML, or no YAML that Kubernetes would take."""


@dataclass
class _Open:
    """A list or mapping that is being filled."""

    value: Mapping | list[Any]
    key: Any = _NOT_GIVEN
    merges: list[Any] = field(default_factory=list)


def load_all(text: str, first_line: int = 1) -> list[Any]:
    """Every document in `text`, which starts at `first_line` of its file; NotYaml says why there is none."""
    builder = _Builder(first_line)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except NotYaml:
        raise
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + first_line}: " if error.problem_mark else ""
        raise NotYaml(f"not YAML: {line}{error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        raise NotYaml(f"not YAML: {error.reason}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The scanner without libyaml trips over escapes of characters that there are not, and the like.
        raise NotYaml(f"not YAML: {quoted(str(error))}") from None
    return builder.documents


class _Builder:
    def __init__(self, first_line: int) -> None:
        self._first_line = first_line
        self.documents: list[Any] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, Any] = {}
        self._nr_merged = 0

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._anchors = {}
        elif isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
            self._anchor(event, value)
            self._put(value, event, merge=event.value == "<<" and bool(event.implicit[0]))
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._fault(event, f"alias {quoted(event.anchor)} has no anchor")
            self._put(self._anchors[event.anchor], event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(self._open) >= MAX_DEPTH:
                raise self._fault(event, f"nested deeper than {MAX_DEPTH} levels")
            value = Mapping() if isinstance(event, yaml.MappingStartEvent) else []
            self._anchor(event, value)
            self._open.append(_Open(value))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = self._open.pop()
            for merged in done.merges:
                self._merge(done.value, merged, event)
            self._put(done.value, event)

    def _anchor(self, event: Any, value: Any) -> None:
        if event.anchor is not None:
            self._anchors[event.anchor] = value

    def _put(self, value: Any, event: Any, merge: bool = False) -> None:
        if not self._open:
            self.documents.append(value)
            return
        parent = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif parent.key is _NOT_GIVEN:
            parent.key = _MERGE if merge else self._key(value, event)
            if parent.key in parent.value:
                raise self._fault(event, f"key {quoted(parent.key)} stands twice")
            if not merge:
                parent.value.lines[parent.key] = event.start_mark.line + self._first_line
        else:
            if parent.key is _MERGE:
                parent.merges.append(value)
            else:
                parent.value[parent.key] = value
            parent.key = _NOT_GIVEN

    def _merge(self, into: Any, merged: Any, event: Any) -> None:
        """`<<: *base`: keys that stand in the mapping itself win; of several bases the first wins."""
        for base in merged if isinstance(merged, list) else [merged]:
            if not isinstance(base, Mapping):
                raise self._fault(event, "<< takes a mapping or a list of mappings")
            self._nr_merged += len(base)
            if self._nr_merged > MAX_MERGED_KEYS:
                raise self._fault(event, f"<< merges more than {MAX_MERGED_KEYS} keys")
            for key, value in list(base.items()):
                into.setdefault(key, value)
                into.lines.setdefault(key, base.lines[key])

    def _key(self, value: Any, event: Any) -> str:
        if isinstance(value, dict | list):
            raise self._fault(event, "a key that is itself a mapping or a list")
        return str(getattr(event, "value", value))

    def _fault(self, event: Any, what: str) -> NotYaml:
        return NotYaml(f"not YAML for Kubernetes: line {event.start_mark.line + self._first_line}: {what}")


def _scalar(event: Any) -> Any:
    text: str = event.value
    tag: str | None = event.tag
    if tag is None:
        resolved = event.implicit[0]  # plain, not quoted
    else:
        resolved = tag.startswith("tag:yaml.org,2002:") and not tag.endswith(":str")
    if not resolved or len(text) > 100:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return _int(text)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def _int(text: str) -> int | str:
    sign = -1 if text[0] == "-" else 1
    digits = text.lstrip("+-").replace("_", "").lower()
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return sign * int(digits, 8)
    try:
        return sign * int(digits, 0)
    except ValueError:
        return text  # "0x_" and the like: underscores and no digit
