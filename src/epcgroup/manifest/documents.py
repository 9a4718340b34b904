"""Files, directories and standard input to documents: plain values with the origin that messages show.

YAML files are cut at `---` lines first, as kubectl does, so that one bad document does not hide the others;
of markdown files the fenced YAML is read. A path that cannot be read is an InputError, a text that is no YAML
a Skipped. What a document means is decided elsewhere (kubernetes.py, oci.py).
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epcgroup.errors import InputError
from epcgroup.manifest import yamltext
from epcgroup.manifest.pod import Skipped

SUFFIXES = (".yaml", ".yml", ".json", ".md")  # what is read of a directory
MAX_BYTES = 64 << 20
STDIN = Path("-")

HELM = "a Helm template; render it first (helm template)"

_FENCED = ("yaml", "yml", "json")
_FENCE = re.compile(r"( *)(`{3,}|~{3,}) *([A-Za-z]*)[^`]*$")


@dataclass(frozen=True)
class Document:
    value: Any
    origin: str  # "web.yaml", "web.yaml, document 2", "guide.md, line 41"
    path: Path


def read(paths: Sequence[Path]) -> Iterator[Document | Skipped]:
    """The documents of all files; of a directory those of its files, sorted by name."""
    for path in paths:
        files = files_of(path)
        if not files:
            yield Skipped(shown(path), f"a directory without {', '.join('*' + s for s in SUFFIXES)} files")
        for file in files:
            yield from _read_file(file)


def files_of(path: Path) -> list[Path]:
    """The path itself; of a directory the files that are read, sorted by name."""
    if path == STDIN or not is_directory(path):
        return [path]
    return sorted(p for p in _entries(path) if p.suffix in SUFFIXES and not is_directory(p))


def is_directory(path: Path) -> bool:
    """As Path.is_dir, with an InputError for what is no path at all."""
    try:
        return path.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(_why(error), where=shown(path)) from None


def shown(path: Path) -> str:
    """The path on one printable line."""
    text = "standard input" if path == STDIN else str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def bytes_of(path: Path, most: int) -> bytes:
    """A whole file that is no manifest; InputError when it cannot be read or has more than `most` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({getattr(error, 'strerror', None) or error})", where=path) from None
    if len(data) > most:
        raise InputError(f"larger than {most >> 20} MiB", where=path)
    return data


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise InputError(_why(error), where=shown(path)) from None


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or directory"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _read_file(path: Path) -> Iterator[Document | Skipped]:
    text = text_of(path)
    if isinstance(text, Skipped):
        yield text
    else:
        yield from read_text(text.removeprefix("\ufeff"), shown(path), path)


def text_of(path: Path) -> str | Skipped:
    """The text of a file, byte order mark and line ends as they are."""
    origin = shown(path)
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(_why(error), where=origin) from None
    if len(data) > MAX_BYTES:
        return Skipped(origin, f"larger than {MAX_BYTES >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return Skipped(origin, f"not UTF-8 text (byte {error.start})")


def read_text(text: str, origin: str, path: Path) -> Iterator[Document | Skipped]:
    """The documents of one file's text; `path` tells markdown from YAML and names pods that have no name."""
    if not text.strip():
        yield Skipped(origin, "empty file")
    elif path.suffix == ".md":
        yield from _markdown(text, origin, path)
    elif text.lstrip()[0] in "{[" and (value := _json(text)) is not None:
        yield Document(value, origin, path)
    else:
        yield from _yaml(text, origin, path, first_line=1)


def _json(text: str) -> Any:
    """The value when the text is JSON; None leaves the judgement to the YAML reader."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _yaml(text: str, origin: str, path: Path, first_line: int) -> Iterator[Document | Skipped]:
    parts = list(split(text, first_line))
    if not parts:
        yield Skipped(origin, "only comments")
    for number, (line, part) in enumerate(parts, 1):
        here = f"{origin}, document {number}" if len(parts) > 1 else origin
        try:
            values = yamltext.load_all(part, line)
        except yamltext.NotYaml as error:
            yield Skipped(here, HELM if "{{" in part else str(error))
            continue
        for value in values:
            yield Document(value, here, path)


def split(text: str, first_line: int) -> Iterator[tuple[int, str]]:
    """Cut at lines that begin with `---`; a part without content (comments, directives) joins the next."""
    start, lines = first_line, list[str]()
    for number, line in enumerate(text.splitlines(keepends=True), first_line):
        if re.match(r"---(\s|$)", line) and any(map(_is_content, lines)):
            yield start, "".join(lines)
            start, lines = number, []
        lines.append(line)
    if any(map(_is_content, lines)):
        yield start, "".join(lines)


def _is_content(line: str) -> bool:
    text = line.removeprefix("---").strip()
    return bool(text) and text[0] not in "#%" and text != "..."


def _markdown(text: str, origin: str, path: Path) -> Iterator[Document | Skipped]:
    fences = list(_fenced_yaml(text))
    if not fences:
        yield Skipped(origin, "markdown without fenced YAML (```yaml)")
    for line, part in fences:
        yield from _yaml(part, f"{origin}, line {line}", path, line)


def _fenced_yaml(text: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, text less the fence's indentation) of each yaml, yml or json fence."""
    fence: re.Match[str] | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if fence is None:
            fence = _FENCE.match(line)
            start, lines = number + 1, []
            continue
        indent, mark, language = fence.groups()
        if line.strip().startswith(mark) and not line.strip().strip(mark[0]):
            if language.lower() in _FENCED:
                yield start, "".join(lines)
            fence = None
        else:
            lines.append(line[min(len(indent), len(line) - len(line.lstrip(" "))) :])
    if fence is not None and fence[3].lower() in _FENCED:
        yield start, "".join(lines)  # a fence that is not closed goes to the end
