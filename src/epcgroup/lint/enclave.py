"""How much EPC an enclave's own configuration calls for: Gramine, EGo, Occlum, Open Enclave, the Intel SGX SDK.

A Need is a lower bound in bytes and the rule that gave it; every rule is an approximation and says what it leaves out.
Told apart by content. What cannot be read as one of them is an InputError; what the runtime would refuse is a fault.
"""

import json
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epcgroup.errors import InputError
from epcgroup.manifest.documents import bytes_of
from epcgroup.units import PAGE_SIZE, format_bytes, quoted

MAX_FILE_BYTES = 1 << 20
MOST = 1 << 47  # bytes; beyond that no enclave has addresses

_GRAMINE_SIZE = re.compile(r"(0x[0-9a-f]+|[0-9]+)([KMG]?)", re.IGNORECASE | re.ASCII)
_OCCLUM_SIZE = re.compile(r"([0-9]+) *(B|KB|MB|GB|TB)", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "B": 1, "K": 2**10, "KB": 2**10, "M": 2**20, "MB": 2**20, "G": 2**30, "GB": 2**30, "TB": 2**40}
_OE_LINE = re.compile(r"^(Num(?:Heap|Stack)Pages|NumTCS)[ \t]*=[ \t]*(\S+)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Need:
    file: str
    bytes: int | None  # at least so much; None: it is taken on demand
    rule: str  # how it was worked out, and what it leaves out
    faults: tuple[str, ...] = ()  # what the runtime would refuse


def read(path: Path) -> Need:
    """The need of one configuration file."""
    data = bytes_of(path, MAX_FILE_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", where=path) from None
    return _reader(text)(text, str(path))


def _reader(text: str) -> Callable[[str, str], Need]:
    if text.lstrip().startswith("{"):
        return _json
    if text.lstrip().startswith("<"):
        return _sdk
    return _open_enclave if _OE_LINE.search(text) else _gramine


def _malformed(text: str, reason: str, where: str) -> InputError:
    if "{%" in text or "{{" in text:
        reason = "a template; render it first (gramine-manifest)"
    return InputError(f"no enclave configuration: {reason}", where=where)


# --- Gramine


def _gramine(text: str, where: str) -> Need:
    try:
        manifest = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(text, f"not TOML: {error}", where) from None
    sgx = manifest.get("sgx")
    if not isinstance(sgx, dict):
        raise InputError("no enclave configuration: a Gramine manifest has sgx.* keys", where=where)
    edmm = sgx.get("edmm_enable", False)
    if not isinstance(edmm, bool):
        raise InputError(f"{quoted(edmm)} is neither true nor false", where=where, key="sgx.edmm_enable")
    given = sgx.get("enclave_size")
    if edmm:
        size = "1024G" if given is None else quoted(given)
        return Need(where, None, f"Gramine with EDMM: pages are added on demand, up to sgx.enclave_size {size}")
    size_bytes = 256 << 20 if given is None else _gramine_size(given, where)
    faults = []
    if size_bytes & (size_bytes - 1) or size_bytes < PAGE_SIZE:
        faults.append(f"sgx.enclave_size {quoted(given)} is not a power of two of at least one page")
    rule = (
        f"Gramine without EDMM adds all of sgx.enclave_size ({format_bytes(size_bytes)}"
        f"{', the default' if given is None else ''}) at the start; each child process is one enclave more"
    )
    return Need(where, size_bytes, rule, tuple(faults))


def _gramine_size(value: Any, where: str) -> int:
    match = _GRAMINE_SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InputError(f'{quoted(value)} is not a size, as in "256M"', where=where, key="sgx.enclave_size")
    number = _bounded(match[1], where, "sgx.enclave_size")
    return _within(number * _UNITS[match[2].upper()], where, "sgx.enclave_size")


# --- EGo and Occlum


def _json(text: str, where: str) -> Need:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(text, f"not JSON: {error}", where) from None
    if "heapSize" in value:
        return _ego(value, where)
    if isinstance(value.get("resource_limits"), dict):
        return _occlum(value["resource_limits"], where)
    raise InputError(
        "no enclave configuration: EGo's enclave.json has heapSize, Occlum.json has resource_limits", where=where
    )


def _ego(value: Mapping[str, Any], where: str) -> Need:
    megabytes = value["heapSize"]
    if isinstance(megabytes, bool) or not isinstance(megabytes, int) or megabytes < 1:
        raise InputError(f"{quoted(megabytes)} is not a number of MB, 1 or more", where=where, key="heapSize")
    size = _within(megabytes << 20, where, "heapSize")
    return Need(where, size, f"EGo adds a heap of heapSize {megabytes} MB at the start; code and stacks come on top")


def _occlum(limits: Mapping[str, Any], where: str) -> Need:
    def size(key: str) -> int:
        value = limits.get(key, "0B")
        match = _OCCLUM_SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise InputError(f'{quoted(value)} is not a size, as in "300MB"', where=where, key=f"resource_limits.{key}")
        return _bounded(match[1], where, key) * _UNITS[match[2].upper()]

    threads = limits.get("max_num_of_threads", 1)
    if isinstance(threads, bool) or not isinstance(threads, int) or not 0 < threads <= 65536:
        raise InputError(
            f"{quoted(threads)} is not a number from 1 to 65536", where=where, key="resource_limits.max_num_of_threads"
        )
    user, heap, stack = size("user_space_size"), size("kernel_space_heap_size"), size("kernel_space_stack_size")
    rule = (
        f"Occlum: user_space_size {format_bytes(user)}, kernel_space_heap_size {format_bytes(heap)} and "
        f"{threads} x kernel_space_stack_size {format_bytes(stack)}; code and what *_max_size lets it grow come on top"
    )
    return Need(where, _within(user + heap + threads * stack, where, "resource_limits"), rule)


# --- Intel SGX SDK and Open Enclave


def _sdk(text: str, where: str) -> Need:
    # Entities could make a small file endless; no configuration has them.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError("no enclave configuration: XML with a document type", where=where)
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"no enclave configuration: not XML: {error}", where=where) from None
    if root.tag != "EnclaveConfiguration":
        raise InputError(f"no enclave configuration: <{root.tag}>, not <EnclaveConfiguration>", where=where)

    def number(key: str, default: int) -> int:
        found = root.findtext(key)
        return default if found is None else _bounded(found.strip(), where, key)

    heap, stack, threads = number("HeapMaxSize", 0), number("StackMaxSize", 0), number("TCSNum", 1)
    faults = [
        f"{key} {format_bytes(size)} is not whole pages of 4096 bytes"
        for key, size in (("HeapMaxSize", heap), ("StackMaxSize", stack))
        if size % PAGE_SIZE
    ]
    rule = (
        f"SGX SDK: HeapMaxSize {format_bytes(heap)} and TCSNum {threads} x StackMaxSize {format_bytes(stack)}; what is "
        "not in the file counts 0, and code, TCS and SSA pages come on top"
    )
    return Need(where, _within(heap + threads * stack, where, "HeapMaxSize"), rule, tuple(faults))


def _open_enclave(text: str, where: str) -> Need:
    values = {key: _bounded(value, where, key) for key, value in _OE_LINE.findall(text)}
    heap, stack, threads = (values.get(key, 0) for key in ("NumHeapPages", "NumStackPages", "NumTCS"))
    rule = (
        f"Open Enclave: NumHeapPages {heap} and NumTCS {threads} x NumStackPages {stack}, of 4 KiB; "
        "code and TCS pages come on top"
    )
    return Need(where, _within((heap + threads * stack) * PAGE_SIZE, where, "NumHeapPages"), rule)


def _bounded(digits: str, where: str, key: str) -> int:
    """A number in decimal or hexadecimal; InputError."""
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]{1,16})|([0-9]{1,20})", digits, re.ASCII)
    if match is None:
        raise InputError(f"{quoted(digits)} is not a number, as in 0x40000 or 262144", where=where, key=key)
    return int(match[1], 16) if match[1] else int(match[2])


def _within(size: int, where: str, key: str) -> int:
    if size > MOST:
        raise InputError(f"{size} bytes are more than an enclave has addresses for", where=where, key=key)
    return size
