"""EPC resources of one family into another's, and limits in annotations into the other kind, in the text of a manifest.

Only the keys and amounts change: spans of the text are replaced where the YAML parser found them, so comments, quotes,
indentation and line ends stay as they are. What cannot be said in the other family stays too, and one line says why.
Not here: markdown, templates that are no YAML, devices (no family has another's).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from epcgroup.errors import InputError
from epcgroup.interface import UNLIMITED
from epcgroup.manifest import annotations as limits
from epcgroup.manifest import documents, quantity, yamltext
from epcgroup.manifest.kubernetes import DEVICES, EPC_RESOURCE, PAGE_DEVICE, SIZES
from epcgroup.units import PAGE_SIZE, quoted

Family = Literal["intel", "azure", "alibaba"]
FAMILIES: dict[Family, str] = dict(zip(("intel", "azure", "alibaba"), SIZES, strict=True))
Annotations = Literal["nri", "epcgroup"]

_QUOTA = ("", "requests.", "limits.")  # before a resource's name in a ResourceQuota
_SUFFIXES = (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))


@dataclass(frozen=True)
class Wanted:
    resource: Family | None = None
    annotations: Annotations | None = None
    round_up: bool = False  # to whole MiB, where the family counts them
    pages: bool = False  # PAGE_DEVICE is a size in pages


@dataclass
class Result:
    text: str
    nr_changed: int = 0
    left: list[str] = field(default_factory=list)  # what was not converted: `FILE:LINE: what: why`


def convert(text: str, path: Path, wanted: Wanted) -> Result:
    """The text with what could be converted; `path` is for messages, and tells markdown."""
    origin = documents.shown(path)
    if path.suffix == ".md":
        return Result(text, left=[f"{origin}: markdown is not converted; give its YAML as a file"])
    mark = text[: text.startswith("\ufeff")]
    result = Result(mark)
    done = len(mark)
    for line, part in documents.split(text[done:], 1):
        changed, edits = _Part(part, line, origin, wanted).done(result.left)
        result.text += changed
        result.nr_changed += edits
        done += len(part)
    result.text += text[done:]  # comments and the like
    return result


class _Part:
    """One `---` part of a file."""

    def __init__(self, text: str, first_line: int, origin: str, wanted: Wanted) -> None:
        self._text, self._first_line, self._origin, self._wanted = text, first_line, origin, wanted
        self._edits: dict[tuple[int, int], str] = {}
        self._left: dict[str, None] = {}  # a set that keeps the order
        self._seen: set[int] = set()
        self._handled: set[int] = set()  # annotations of pod templates

    def done(self, left: list[str]) -> tuple[str, int]:
        """The part's new text and how many places changed; what was left goes to `left`."""
        try:
            # It bounds what follows: depth, duplicate keys, what is no YAML.
            yamltext.load_all(self._text, self._first_line)
            nodes = list(yaml.compose_all(self._text, Loader=yaml.SafeLoader))
            for node in nodes:
                self._visit(node, ())
        except (yaml.YAMLError, InputError) as error:
            reason = documents.HELM if "{{" in self._text else " ".join(str(error).split())
            left.append(f"{self._origin}:{self._first_line}: not converted: {reason}")
            return self._text, 0
        left += self._left
        text = self._text
        for (start, end), new in sorted(self._edits.items(), reverse=True):
            text = text[:start] + new + text[end:]
        return text, len(self._edits)

    def _visit(self, node: yaml.Node | None, path: tuple[str, ...]) -> None:
        if node is None or (not isinstance(node, yaml.ScalarNode) and id(node) in self._seen):
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._scalar(item, path)
                self._visit(item, path)
        elif isinstance(node, yaml.MappingNode):
            self._template(node)
            beside = {key.value for key, _ in node.value}
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else ""
                self._resource(key, value, name, beside, path)
                self._misplaced(key, name)
                if name == "key" and path[-1:] in (("tolerations",), ("taints",)):
                    self._taint(value)
                else:
                    self._scalar(value, (*path, name))
                self._visit(value, (*path, name))

    # --- resources

    def _resource(
        self, key: yaml.Node, value: yaml.Node, name: str, beside: set[Any], path: tuple[str, ...]
    ) -> None:
        if self._wanted.resource is None:
            return
        target = FAMILIES[self._wanted.resource]
        prefix = next((p for p in _QUOTA if p and name.startswith(p)), "")
        source = name.removeprefix(prefix)
        if source == PAGE_DEVICE and not self._wanted.pages:
            self._leave(key, name, "it counts pages with one plugin only; --pages says that it does")
        elif source in DEVICES and source != PAGE_DEVICE:
            if target != EPC_RESOURCE and source.startswith("sgx.intel.com/"):
                self._leave(key, name, f"nodes with {target} do not advertise it; remove it there")
        elif source not in (*SIZES, PAGE_DEVICE) or source == target:
            return
        elif path[-1:] == ("annotations",):
            self._leave(key, f"annotation {name}", "Kata reads it under this name")
        elif prefix + target in beside:
            self._leave(key, name, f"{prefix + target} stands beside it")
        else:
            amount = self._amount(key, value, source, target)
            if amount is not None:
                self._replace(key, prefix + target)
                self._replace(value, amount)

    def _amount(self, key: yaml.Node, value: yaml.Node, source: str, target: str) -> str | None:
        if not self._replaceable(key, value):
            self._leave(key, source, "it has an anchor, a tag or a block text")
            return None
        unit = SIZES[target]
        try:
            size = quantity.parse_whole(value.value, unit_bytes=SIZES.get(source, PAGE_SIZE))
        except InputError as error:
            self._leave(key, source, str(error))
            return None
        if size % unit and not self._wanted.round_up:
            self._leave(key, source, f"{quoted(value.value)} is not whole MiB; --round-up takes the next")
            return None
        return _quantity(size) if unit == 1 else str(-(-size // unit))

    def _taint(self, value: yaml.Node) -> None:
        if self._wanted.resource is not None and value.value in SIZES:
            target = FAMILIES[self._wanted.resource]
            if value.value == target:
                return
            if self._replaceable(value):
                self._replace(value, target)
            else:
                self._leave(value, value.value, "it has an anchor, a tag or a block text")

    def _scalar(self, value: yaml.Node, path: tuple[str, ...]) -> None:
        """Names of resources where none is expected (`resourceKey: sgx.intel.com/epc`) are said, not changed."""
        family = self._wanted.resource
        if family and isinstance(value, yaml.ScalarNode) and value.value in SIZES and value.value != FAMILIES[family]:
            self._leave(value, value.value, f"a value, of {quoted(path[-1] if path else '')}; only keys are converted")

    # --- annotations

    def _template(self, node: yaml.MappingNode) -> None:
        """Annotations of a pod template, whose containers it names."""
        if self._wanted.annotations is None:
            return
        containers = _at(node, "spec", "containers")
        annotations = _at(node, "metadata", "annotations")
        if not isinstance(containers, yaml.SequenceNode) or not isinstance(annotations, yaml.MappingNode):
            return
        inits = _at(node, "spec", "initContainers")
        every = [*(inits.value if isinstance(inits, yaml.SequenceNode) else ()), *containers.value]
        found = [_at(c, "name") for c in every if isinstance(c, yaml.MappingNode)]
        names = [name.value for name in found if isinstance(name, yaml.ScalarNode)]
        there = {key.value: value for key, value in annotations.value if isinstance(key, yaml.ScalarNode)}
        to_ours = self._wanted.annotations == "epcgroup"
        for key, value in annotations.value:
            if isinstance(key, yaml.ScalarNode):
                self._handled.add(id(key))
                try:
                    entries = (_to_ours if to_ours else _to_nri)(key.value, value.value, names, there)
                except InputError as error:
                    self._leave(key, f"annotation {key.value}", str(error))
                    continue
                if entries:
                    self._entries(key, value, entries, flow=bool(annotations.flow_style))

    def _entries(self, key: yaml.Node, value: yaml.Node, entries: Mapping[str, str], *, flow: bool) -> None:
        """`entries` in the place of one."""
        between = self._text[key.end_mark.index : value.start_mark.index]
        if not self._replaceable(key, value) or between.strip() != ":":
            self._leave(key, f"annotation {key.value}", "it has an anchor, a tag or a block text")
            return
        quote = _quote(value) or '"'
        newline = "\r\n" if "\r\n" in self._text else "\n"
        gap = ", " if flow else newline + " " * key.start_mark.column
        pairs = [f"{_styled(key, name)}{between}{quote}{text}{quote}" for name, text in entries.items()]
        self._put(key.start_mark.index, value.end_mark.index, gap.join(pairs), key)

    def _misplaced(self, key: yaml.Node, name: str) -> None:
        family = self._wanted.annotations
        if family and id(key) not in self._handled:
            source = name.startswith(limits.NRI) if family == "epcgroup" else _is_our_limit(name)
            if source:
                self._leave(key, f"annotation {name}", "it is not of a pod template")

    # --- places in the text

    def _replaceable(self, *nodes: yaml.Node) -> bool:
        """Whether the spans are plain or quoted words, and nothing else."""
        return all(
            isinstance(node, yaml.ScalarNode)
            and node.style in (None, "'", '"')
            and self._text[node.start_mark.index : node.start_mark.index + 1] == (node.style or node.value[:1])
            for node in nodes
        )

    def _replace(self, node: yaml.Node, text: str) -> None:
        self._put(node.start_mark.index, node.end_mark.index, _styled(node, text), node)

    def _put(self, start: int, end: int, text: str, node: yaml.Node) -> None:
        if self._edits.setdefault((start, end), text) != text:
            self._leave(node, node.value, "pods that share it by an alias would want different ones")

    def _leave(self, node: yaml.Node, what: str, why: str) -> None:
        line = self._first_line + node.start_mark.line
        self._left[f"{self._origin}:{line}: {what}: not converted: {why}"] = None


def _styled(node: yaml.Node, text: str) -> str:
    return f"{_quote(node)}{text}{_quote(node)}"


def _quote(node: yaml.Node) -> str:
    return getattr(node, "style", None) or ""


def _at(node: yaml.Node, *keys: str) -> yaml.Node | None:
    found: yaml.Node | None = node
    for name in keys:
        entries = found.value if isinstance(found, yaml.MappingNode) else ()
        found = next((value for key, value in entries if key.value == name), None)
    return found


def _quantity(size: int) -> str:
    """The shortest exact quantity in binary units."""
    for suffix, unit in _SUFFIXES:
        if size and size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


# --- what an annotation is in the other family: the entries that take its place, none when it is of no family


def _to_ours(key: str, value: Any, names: Sequence[str], there: Mapping[str, Any]) -> dict[str, str]:
    if not (key == limits.NRI or key.startswith(f"{limits.NRI}/")):
        return {}
    if not isinstance(value, str):
        raise InputError("not a text")
    size = limits.limit({key: value}, key)
    text = "max" if size is None else _quantity(size)
    if key.startswith(limits.NRI_CONTAINER):
        own = limits.LIMIT + key.removeprefix(limits.NRI_CONTAINER)
        if own in there:
            raise InputError(f"{own} stands beside it")
        return {own: text}
    if key not in (limits.NRI, limits.NRI_POD):
        raise InputError("nobody reads it")
    if key == limits.NRI and limits.NRI_POD in there:
        raise InputError(f"{limits.NRI_POD} stands beside it, and counts")
    others = [n for n in names if limits.NRI_CONTAINER + n not in there and limits.LIMIT + n not in there]
    if not others:
        raise InputError("every container has a limit of its own")
    return {limits.LIMIT + name: text for name in others}


def _to_nri(key: str, value: Any, names: Sequence[str], there: Mapping[str, Any]) -> dict[str, str]:
    if key == limits.POD_LIMIT:
        raise InputError("the sgx-epc plugin has no limit of a whole pod")
    if not _is_our_limit(key):
        return {}
    theirs = limits.NRI_CONTAINER + key.removeprefix(limits.LIMIT)
    if theirs in there:
        raise InputError(f"{theirs} stands beside it")
    if not isinstance(value, str):
        raise InputError("not a text")
    size = limits.limit({key: value}, key)
    if size == 0:
        raise InputError("a limit of 0 means no limit to the sgx-epc plugin")
    return {theirs: "0" if size is None or size >= UNLIMITED else str(size)}


def _is_our_limit(key: str) -> bool:
    return key == limits.POD_LIMIT or key.startswith(limits.LIMIT)


def changed_files(paths: Sequence[Path], wanted: Wanted) -> Iterator[tuple[Path, Result]]:
    """Every file of the paths with what became of it; InputError for what cannot be read."""
    for path in paths:
        for file in documents.files_of(path):
            text = documents.text_of(file)
            if isinstance(text, str):
                yield file, convert(text, file, wanted)
            else:
                yield file, Result("", left=[f"{text.origin}: not converted: {text.reason}"])
