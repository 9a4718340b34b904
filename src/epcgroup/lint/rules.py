"""The table of rules. One rule is one small function: a pod template in, what is wrong with it out.

A Fault names what stands there, what is allowed and how to fix it. Order of the table is the order of
docs/reference/lint.md, which says of each rule why. A rule sees one pod and what the caller gave; it reads no files.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Literal

from epcgroup.errors import InputError, MachineError, nearest
from epcgroup.interface import EPC, UNLIMITED, parse_max
from epcgroup.lint.enclave import Need
from epcgroup.lint.view import Amount, ContainerView, PodView
from epcgroup.manifest import annotations as limits
from epcgroup.manifest import quantity
from epcgroup.manifest.kubernetes import DEVICES, EPC_RESOURCE, PAGE_DEVICE, SIZES
from epcgroup.units import PAGE_SIZE, format_bytes, pages_down, quoted

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

ENCLAVE, PROVISION = "sgx.intel.com/enclave", "sgx.intel.com/provision"
QUOTE_PROVIDER = "sgx.intel.com/quote-provider"
CRIO = (limits.CRIO, "io.kubernetes.cri-o.UnifiedCgroup/")
LEAST_BYTES = 16 * PAGE_SIZE  # SECS, version array, TCS, state save area, stack and code of the smallest enclave
MOST_BYTES = 1 << 40  # no machine has more EPC


@dataclass(frozen=True)
class Fault:
    message: str
    allowed: str
    fix: str
    container: str = ""
    line: int | None = None
    file: str = ""  # where it is not the manifest


@dataclass(frozen=True)
class Given:
    """What the caller knows beside the manifests."""

    epc_bytes: int | None = None  # of the node
    needs: Mapping[str, Need] = field(default_factory=dict)  # by container


@dataclass(frozen=True)
class Rule:
    id: str
    severity: Severity
    title: str
    check: Callable[[PodView, Given], Iterator[Fault]]


def _sizes(pod: PodView) -> Iterator[tuple[ContainerView, Amount, int]]:
    """The EPC sizes that can be read, those of limits and of requests."""
    for container in pod.containers:
        for amount in container.amounts:
            if amount.resource in SIZES and amount.number is not None:
                yield container, amount, amount.number


def _once_a_resource(pod: PodView) -> Iterator[tuple[ContainerView, Amount, int]]:
    """As _sizes; of equal limits and requests the limit."""
    seen = set()
    for container, amount, number in _sizes(pod):
        if (container.name, amount.resource, number) not in seen:
            seen.add((container.name, amount.resource, number))
            yield container, amount, number


def _meant(word: str, words: Iterable[str]) -> str:
    """`did you mean "x"?`; empty when nothing is near."""
    hint = nearest(word, words).removeprefix("; ")
    return hint if hint.startswith("did") else ""


def _stands(amount: Amount) -> str:
    return f"{amount.resource} is {quoted(amount.value)}"


# --- amounts


def amount_unreadable(pod: PodView, given: Given) -> Iterator[Fault]:
    for container in pod.containers:
        for amount in container.amounts:
            if amount.number is None:
                text = str(amount.value)
                milli = isinstance(amount.value, str) and text.endswith("m")
                fix = f"m is a thousandth: write {quoted(text[:-1] + 'Mi')}" if milli else "write a whole number"
                yield Fault(
                    f"{amount.resource}: {amount.fault}",
                    "a whole number of 0 or more, with a suffix of k M G T P E or Ki Mi Gi Ti Pi Ei",
                    fix,
                    container.name,
                    amount.line,
                )


def size_too_small(pod: PodView, given: Given) -> Iterator[Fault]:
    for container, amount, size in _once_a_resource(pod):
        if 0 < size < LEAST_BYTES:
            bare = isinstance(amount.value, int) or (isinstance(amount.value, str) and amount.value.isdigit())
            fix = f"{amount.resource} counts bytes: write {amount.value}Mi for MiB" if bare else "claim more"
            yield Fault(
                f"{_stands(amount)}, which is {size} bytes: no enclave is that small",
                f"{LEAST_BYTES} bytes or more",
                fix,
                container.name,
                amount.line,
            )


def size_too_large(pod: PodView, given: Given) -> Iterator[Fault]:
    for container, amount, size in _once_a_resource(pod):
        if size > MOST_BYTES:
            unit = SIZES[amount.resource]
            fix = "claim less"
            if unit > 1:
                count = size // unit
                meant = count >> 20 if count >= 1 << 20 else count
                fix = f"{amount.resource} counts MiB: write {meant} for {meant} MiB"
            yield Fault(
                f"{_stands(amount)}, which is {format_bytes(size)}: no machine has that much EPC",
                f"{format_bytes(MOST_BYTES)} or less",
                fix,
                container.name,
                amount.line,
            )


def size_not_pages(pod: PodView, given: Given) -> Iterator[Fault]:
    for container, amount, size in _once_a_resource(pod):
        if LEAST_BYTES <= size <= MOST_BYTES and size % PAGE_SIZE:
            yield Fault(
                f"{_stands(amount)}, {size} bytes: as a limit it lets in {pages_down(size)} pages",
                f"whole pages of {PAGE_SIZE} bytes",
                f"write {-(-size // PAGE_SIZE) * PAGE_SIZE}, or a quantity in Ki, Mi or Gi",
                container.name,
                amount.line,
            )


def size_zero(pod: PodView, given: Given) -> Iterator[Fault]:
    for container, amount, size in _once_a_resource(pod):
        if size == 0:
            yield Fault(
                f"{_stands(amount)}, which asks for nothing", "1 or more", "claim a size, or remove it",
                container.name, amount.line,
            )  # fmt: skip


def requests_differ(pod: PodView, given: Given) -> Iterator[Fault]:
    for container in pod.containers:
        of_limits = {a.resource: a for a in container.amounts if a.part == "limits"}
        for amount in container.amounts:
            limit = of_limits.get(amount.resource)
            if amount.part == "limits" or not limit or None in (limit.number, amount.number):
                continue
            if limit.number != amount.number:
                yield Fault(
                    f"{amount.resource}: request {quoted(amount.value)} is not limit {quoted(limit.value)}; the API "
                    "server rejects that for extended resources",
                    "requests equal to limits",
                    "remove it from requests: Kubernetes copies the limit",
                    container.name,
                    amount.line,
                )


def requests_alone(pod: PodView, given: Given) -> Iterator[Fault]:
    for container in pod.containers:
        of_limits = {a.resource for a in container.amounts if a.part == "limits"}
        for amount in container.amounts:
            if amount.part == "requests" and amount.resource not in of_limits:
                yield Fault(
                    f"{amount.resource} stands in requests and not in limits; the API server rejects that for extended "
                    "resources",
                    "limits, with or without equal requests",
                    "move it to limits",
                    container.name,
                    amount.line,
                )


def mixed_families(pod: PodView, given: Given) -> Iterator[Fault]:
    found: dict[str, Amount] = {}
    for _, amount, number in _sizes(pod):
        if number:
            found.setdefault(amount.resource, amount)
    if len(found) > 1:
        names = sorted(found)
        yield Fault(
            f"the pod asks for {' and '.join(names)}: only a node that advertises all of them can run it",
            "one EPC resource a pod",
            f"epcgroup convert --to {'intel' if EPC_RESOURCE in found else 'azure'}",
            line=max((a.line or 0 for a in found.values()), default=0) or None,
        )


def unknown_resource(pod: PodView, given: Given) -> Iterator[Fault]:
    known = (*SIZES, *DEVICES)
    for container in pod.containers:
        for name in sorted({a.resource for a in container.amounts} - set(known)):
            line = next(a.line for a in container.amounts if a.resource == name)
            yield Fault(
                f"{name} is no SGX resource we know: without a node that advertises it the pod stays Pending",
                "an advertised resource",
                _meant(name, known) or f"claim {EPC_RESOURCE}",
                container.name,
                line,
            )


def page_device(pod: PodView, given: Given) -> Iterator[Fault]:
    for container in pod.containers:
        for amount in container.amounts:
            if amount.resource == PAGE_DEVICE and amount.part == "limits" and amount.number:
                yield Fault(
                    f"{_stands(amount)}: with a plugin whose device is a page that is "
                    f"{format_bytes(amount.number * PAGE_SIZE)}, else a plain count; nothing is claimed for a limit",
                    f"a size: {EPC_RESOURCE}",
                    f"epcgroup convert --to intel makes it {EPC_RESOURCE} if a device is a page",
                    container.name,
                    amount.line,
                )


# --- devices


def _without_device(pod: PodView) -> Iterator[tuple[ContainerView, Amount]]:
    """Containers that claim of Intel's resource, whose plugin gives the device apart, and ask for none."""
    for container in pod.containers:
        claim = container.claim
        if claim and claim.resource == EPC_RESOURCE and not container.asks_for(ENCLAVE):
            yield container, claim


def enclave_device(pod: PodView, given: Given) -> Iterator[Fault]:
    for container, claim in _without_device(pod):
        if container.kind == "container":
            yield Fault(
                f"no {ENCLAVE}: the container has /dev/sgx_enclave only if the device plugin's webhook adds it, "
                "which may fail unseen (failurePolicy ignore)",
                f"{ENCLAVE} beside {EPC_RESOURCE}",
                f"add {ENCLAVE}: 1 to its limits",
                container.name,
                claim.line,
            )


def enclave_device_init(pod: PodView, given: Given) -> Iterator[Fault]:
    for container, claim in _without_device(pod):
        if container.kind != "container":
            yield Fault(
                f"no {ENCLAVE}: the device plugin's webhook leaves init containers out, so this one has no "
                "/dev/sgx_enclave",
                f"{ENCLAVE} beside {EPC_RESOURCE}",
                f"add {ENCLAVE}: 1 to its limits",
                container.name,
                claim.line,
            )


def device_without_size(pod: PodView, given: Given) -> Iterator[Fault]:
    for container in pod.containers:
        devices = sorted({a.resource for a in container.amounts if a.resource in DEVICES and a.number})
        if ENCLAVE in devices and not container.asks_for(*SIZES):
            line = next(a.line for a in container.amounts if a.resource == ENCLAVE)
            yield Fault(
                f"{ENCLAVE} and no EPC size: the scheduler counts nothing, and there is no claim to make a limit of",
                f"{EPC_RESOURCE} beside {ENCLAVE}",
                f"add {EPC_RESOURCE} with the EPC that it uses at its peak",
                container.name,
                line,
            )


def provision_alone(pod: PodView, given: Given) -> Iterator[Fault]:
    for container in pod.containers:
        if container.asks_for(PROVISION) and not container.asks_for(ENCLAVE, *SIZES):
            line = next(a.line for a in container.amounts if a.resource == PROVISION)
            yield Fault(
                f"{PROVISION} alone: /dev/sgx_provision serves an enclave, and nothing here can make one",
                f"{PROVISION} beside {ENCLAVE}",
                f"add {ENCLAVE}: 1 and {EPC_RESOURCE}",
                container.name,
                line,
            )


def quote_provider(pod: PodView, given: Given) -> Iterator[Fault]:
    name = pod.texts.get(QUOTE_PROVIDER)
    if name is not None and name != "aesmd" and name not in pod.names:
        yield Fault(
            f"annotation {QUOTE_PROVIDER} is {quoted(name)}, which is no container of the pod: no container gets "
            f"{PROVISION}",
            "aesmd, or the name of a container",
            _meant(name, ["aesmd", *pod.names]) or "name one of them",
            line=pod.line_of(QUOTE_PROVIDER),
        )


def kata_sum(pod: PodView, given: Given) -> Iterator[Fault]:
    text = pod.texts.get(EPC_RESOURCE)
    if text is None:
        return
    claimed = sum(c.claim.number or 0 for c in pod.containers if c.claim and c.kind == "container")
    try:
        size = quantity.parse_whole(text)
    except InputError as error:
        message = f"annotation {EPC_RESOURCE}: {error}"
    else:
        if not claimed or size == claimed:
            return
        message = (
            f"annotation {EPC_RESOURCE} is {quoted(text)}, the containers claim {format_bytes(claimed)}: Kata makes "
            "the VM's one EPC section of the annotation, the scheduler counts the claims"
        )
    yield Fault(
        message,
        "the sum of the containers' claims",
        f'write "{claimed}"' if claimed else "claim EPC",
        line=pod.line_of(EPC_RESOURCE),
    )


# --- annotations


def annotation_not_text(pod: PodView, given: Given) -> Iterator[Fault]:
    for key, value in pod.annotations.items():
        if not isinstance(value, str) and (limits.is_epc(key) or key == EPC_RESOURCE):
            yield Fault(
                f"annotation {key} is {quoted(value)}, which is no text: the API server rejects the pod",
                "text",
                f'quote it: "{quoted(value)}"',
                line=pod.line_of(key),
            )


def annotation_key(pod: PodView, given: Given) -> Iterator[Fault]:
    """A family's prefix with something else behind it, or a prefix that is nearly a family's."""
    kinds = (limits.NRI_CONTAINER + "<container>", limits.NRI_POD, limits.LIMIT + "<container>", limits.POD_LIMIT)
    meant = [prefix + name for prefix in (limits.NRI_CONTAINER, limits.LIMIT) for name in pod.names]
    for key in sorted(pod.annotations):
        if key in (limits.NRI, limits.NRI_POD, limits.POD_LIMIT) or key.startswith(limits.USE):
            continue
        if key.startswith((limits.NRI_CONTAINER, limits.LIMIT)):
            continue
        prefix = key.partition("/")[0]
        near = any(SequenceMatcher(None, prefix, known).ratio() > 0.85 for known in (limits.NRI, "epcgroup.io"))
        if limits.is_epc(key) or near:
            yield Fault(
                f"annotation {quoted(key)} is read by nobody: it sets no limit",
                ", ".join((*kinds, limits.USE)),
                _meant(key, [*meant, limits.NRI_POD, limits.POD_LIMIT]) or "correct the key",
                line=pod.line_of(key),
            )


def annotation_container(pod: PodView, given: Given) -> Iterator[Fault]:
    for key in sorted(pod.annotations):
        for prefix in (limits.NRI_CONTAINER, limits.LIMIT, *CRIO):
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name not in pod.names:
                yield Fault(
                    f"annotation {quoted(key)} names no container of the pod: it limits nothing",
                    f"a container: {', '.join(pod.names)}",
                    _meant(name, pod.names) or "name one of them",
                    line=pod.line_of(key),
                )


def annotation_not_decimal(pod: PodView, given: Given) -> Iterator[Fault]:
    for key, value in pod.texts.items():
        if (key == limits.NRI or key.startswith(f"{limits.NRI}/")) and not _is_decimal(value):
            try:
                fix = f'write "{quantity.parse_whole(value.strip())}"'
            except InputError:
                fix = f"write decimal bytes, or the quantity in {limits.LIMIT}<container>"
            yield Fault(
                f"annotation {key} is {quoted(value)}: the sgx-epc plugin fails the container's creation",
                "decimal bytes, 0 to 2**64-1, without unit, sign, blanks or 0x",
                fix,
                line=pod.line_of(key),
            )


def _is_decimal(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value.lstrip("0")) <= 20 and int(value) <= UNLIMITED


def annotation_quantity(pod: PodView, given: Given) -> Iterator[Fault]:
    for key, value in pod.texts.items():
        if (key == limits.POD_LIMIT or key.startswith(limits.LIMIT)) and value != "max":
            try:
                quantity.parse_whole(value)
            except InputError as error:
                yield Fault(
                    f"annotation {key}: {error}",
                    "a quantity of whole bytes, or max",
                    'write it as in "64Mi"',
                    line=pod.line_of(key),
                )


def annotation_zero(pod: PodView, given: Given) -> Iterator[Fault]:
    for key, value in pod.texts.items():
        if (key == limits.NRI or key.startswith(f"{limits.NRI}/")) and _is_decimal(value) and int(value) == 0:
            yield Fault(
                f"annotation {key} is 0, which the sgx-epc plugin takes for no limit",
                "1 or more",
                f'write a size; for no limit {limits.LIMIT}<container>: "max" says it',
                line=pod.line_of(key),
            )


def annotation_no_total(pod: PodView, given: Given) -> Iterator[Fault]:
    for key in (limits.NRI_POD, limits.NRI):
        if key in pod.texts and len(pod.containers) > 1:
            yield Fault(
                f"annotation {key} is no total: each of the {len(pod.containers)} containers gets that limit",
                "one limit a container, or a total",
                f"a total is {limits.POD_LIMIT}; epcgroup convert --annotations epcgroup writes one for each container",
                line=pod.line_of(key),
            )


def annotation_both(pod: PodView, given: Given) -> Iterator[Fault]:
    for name in pod.names:
        own = limits.LIMIT + name
        theirs = next((k for k in (limits.NRI_CONTAINER + name, limits.NRI_POD, limits.NRI) if k in pod.texts), None)
        if own in pod.texts and theirs:
            yield Fault(
                f"annotations {own} and {theirs} both limit it; epcgroup takes the first, the sgx-epc plugin the "
                "second, and where both run as NRI plugins they conflict and the container fails",
                "one family of annotations",
                "epcgroup convert --annotations nri or epcgroup, or remove one",
                name,
                pod.line_of(theirs),
            )


def annotation_place(pod: PodView, given: Given) -> Iterator[Fault]:
    for key in sorted(pod.above):
        if limits.is_epc(key) and key not in pod.annotations:
            yield Fault(
                f"annotation {key} has no effect on a {pod.kind}: its pods do not get it",
                "annotations of the pod template",
                "move it to metadata.annotations of the pod template",
                line=pod.line_of(key),
            )


def crio_unified(pod: PodView, given: Given) -> Iterator[Fault]:
    for key, value in pod.texts.items():
        if key.startswith(CRIO):
            for line in filter(None, value.split(";")):
                file, equals, text = line.partition("=")
                try:
                    if not equals:
                        raise InputError(f"{quoted(line)} is not FILE=VALUE")
                    if file == "misc.max":
                        parse_max(_plain(text), (EPC,), {EPC: UNLIMITED})
                except (InputError, MachineError) as error:
                    reason = error.strerror if isinstance(error, MachineError) else str(error)
                    yield Fault(
                        f"annotation {key}: {reason}: the container's creation fails",
                        f"misc.max={EPC} BYTES or misc.max={EPC} max, with ; between files",
                        f'write "misc.max={EPC} 67108864"',
                        line=pod.line_of(key),
                    )


def _plain(text: str) -> str:
    """CRI-O takes a value as base64 where it can be read so, else as it stands."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return text


# --- limits and claims


def _limits(pod: PodView) -> Iterator[tuple[ContainerView, str, int]]:
    """(container, annotation, bytes) for each container that an annotation limits."""
    texts = pod.texts
    for container in pod.containers:
        key = limits.container_key(texts, container.name)
        try:
            size = limits.limit(texts, key) if key else None
        except InputError:
            continue  # said by annotation_not_decimal or annotation_quantity
        if key and size is not None:
            yield container, key, size


def _pod_limit(pod: PodView) -> int | None:
    try:
        return limits.pod_limit(pod.texts)
    except InputError:
        return None


def limit_below_page(pod: PodView, given: Given) -> Iterator[Fault]:
    every = [(container.name, key, size) for container, key, size in _limits(pod)]
    total = _pod_limit(pod)
    if total is not None:
        every.append(("", limits.POD_LIMIT, total))
    for name, key, size in every:
        if size < PAGE_SIZE:
            yield Fault(
                f"annotation {key} is {size} bytes, less than one EPC page: no enclave can be created",
                f"{PAGE_SIZE} bytes or more",
                "write the size in bytes" if key.startswith(limits.NRI) else 'write a quantity, as in "64Mi"',
                name,
                pod.line_of(key),
            )


def limit_below_claim(pod: PodView, given: Given) -> Iterator[Fault]:
    for container, key, size in _limits(pod):
        claim = container.claim.number if container.claim else None
        if claim is not None and PAGE_SIZE <= size < claim:
            yield Fault(
                f"annotation {key} limits it to {format_bytes(size)}, its claim is {format_bytes(claim)}: it pages "
                "before it has used what the scheduler set aside",
                "a limit of at least the claim",
                f"raise the limit to {claim} bytes, or claim less",
                container.name,
                pod.line_of(key),
            )


def limit_above_claim(pod: PodView, given: Given) -> Iterator[Fault]:
    for container, key, size in _limits(pod):
        claim = container.claim.number if container.claim else None
        if claim is not None and size > claim:
            yield Fault(
                f"annotation {key} lets it use {format_bytes(size)}, the scheduler counts {format_bytes(claim)}",
                "a limit that is the claim, unless the node is meant to be oversubscribed",
                f"claim {size} bytes, or limit it to its claim",
                container.name,
                pod.line_of(key),
            )


def pod_limit_below(pod: PodView, given: Given) -> Iterator[Fault]:
    total, demand = _pod_limit(pod), pod.demand
    if total is not None and demand is not None and PAGE_SIZE <= total < demand:
        yield Fault(
            f"annotation {limits.POD_LIMIT} is {format_bytes(total)}, the pod claims {format_bytes(demand)}",
            "a limit of at least the claims",
            f"raise it to {demand} bytes",
            line=pod.line_of(limits.POD_LIMIT),
        )


def above_node(pod: PodView, given: Given) -> Iterator[Fault]:
    demand = pod.demand
    if given.epc_bytes is not None and demand is not None and demand > given.epc_bytes:
        claims = [c.claim for c in pod.containers if c.claim]
        worst = max(claims, key=lambda amount: amount.number or 0)
        yield Fault(
            f"the pod claims {format_bytes(demand)}, the node has {format_bytes(given.epc_bytes)}: it stays Pending",
            f"{given.epc_bytes} bytes or less, less what the node keeps in reserve",
            "claim less, or name a larger node with --epc",
            line=worst.line,
        )


def limit_above_node(pod: PodView, given: Given) -> Iterator[Fault]:
    for container, key, size in _limits(pod):
        if given.epc_bytes is not None and size > given.epc_bytes:
            yield Fault(
                f"annotation {key} is {format_bytes(size)}, the node {format_bytes(given.epc_bytes)}: no limit at all",
                f"{given.epc_bytes} bytes or less",
                "lower it",
                container.name,
                pod.line_of(key),
            )


# --- what the enclave's configuration says


def claim_below_enclave(pod: PodView, given: Given) -> Iterator[Fault]:
    for container in pod.containers:
        need, claim = given.needs.get(container.name), container.claim
        if need and need.bytes and claim and claim.number and claim.number < need.bytes:
            yield Fault(
                f"it claims {format_bytes(claim.number)}, its enclave needs at least {format_bytes(need.bytes)} "
                f"({need.file}: {need.rule}); limited to its claim it pages from its start",
                f"{need.bytes} bytes or more",
                f"claim {-(-need.bytes // 2**20)}Mi, or make the enclave smaller",
                container.name,
                claim.line,
            )


def claim_above_enclave(pod: PodView, given: Given) -> Iterator[Fault]:
    for container in pod.containers:
        need, claim = given.needs.get(container.name), container.claim
        if need and need.bytes and claim and claim.number and claim.number > 2 * need.bytes:
            yield Fault(
                f"it claims {format_bytes(claim.number)}, more than twice what its enclave calls for, "
                f"{format_bytes(need.bytes)} ({need.file}: {need.rule})",
                "what it uses at its peak, with its child processes' enclaves",
                "claim less, so that other pods fit on the node",
                container.name,
                claim.line,
            )


def limit_below_enclave(pod: PodView, given: Given) -> Iterator[Fault]:
    for container, key, size in _limits(pod):
        need = given.needs.get(container.name)
        if need and need.bytes and size < need.bytes:
            yield Fault(
                f"annotation {key} limits it to {format_bytes(size)}, its enclave needs at least "
                f"{format_bytes(need.bytes)} ({need.file}: {need.rule}); it pages from its start",
                f"{need.bytes} bytes or more",
                "raise the limit, or make the enclave smaller",
                container.name,
                pod.line_of(key),
            )


def enclave_on_demand(pod: PodView, given: Given) -> Iterator[Fault]:
    for container in pod.containers:
        need = given.needs.get(container.name)
        if need and need.bytes is None:
            yield Fault(
                f"{need.file}: {need.rule}: what it needs does not stand in its configuration",
                "a claim of its peak",
                "measure it: epcgroup top shows the peak",
                container.name,
                container.line,
            )


def enclave_refused(pod: PodView, given: Given) -> Iterator[Fault]:
    for container in pod.containers:
        need = given.needs.get(container.name)
        for fault in need.faults if need else ():
            yield Fault(
                fault, "what the runtime takes", "round it up", container.name, file=need.file if need else ""
            )


RULES = (
    Rule("amount-unreadable", "error", "an amount that Kubernetes does not take", amount_unreadable),
    Rule("size-too-small", "error", "a size in the wrong unit: smaller than any enclave", size_too_small),
    Rule("size-too-large", "error", "a size in the wrong unit: larger than any machine", size_too_large),
    Rule("size-not-pages", "note", "a size that is not whole EPC pages", size_not_pages),
    Rule("size-zero", "warning", "a size of 0", size_zero),
    Rule("requests-differ", "error", "requests that are not the limits", requests_differ),
    Rule("requests-alone", "error", "requests without limits", requests_alone),
    Rule("mixed-families", "warning", "EPC resources of several families in one pod", mixed_families),
    Rule("unknown-resource", "warning", "a resource that looks like SGX and is not known", unknown_resource),
    Rule("page-device", "note", "a device that may be a page", page_device),
    Rule("enclave-device", "note", "no enclave device beside the claim", enclave_device),
    Rule("enclave-device-init", "error", "no enclave device in an init container", enclave_device_init),
    Rule("device-without-size", "warning", "an enclave device without an EPC size", device_without_size),
    Rule("provision-alone", "warning", "a provision device without an enclave", provision_alone),
    Rule("quote-provider", "warning", "a quote provider that is no container", quote_provider),
    Rule("kata-sum", "warning", "an annotation for Kata that is not the sum of the claims", kata_sum),
    Rule("annotation-not-text", "error", "an annotation that is a number", annotation_not_text),
    Rule("annotation-key", "error", "an annotation that nobody reads", annotation_key),
    Rule("annotation-container", "error", "an annotation for a container that there is not", annotation_container),
    Rule("annotation-not-decimal", "error", "a value that fails the container under sgx-epc", annotation_not_decimal),
    Rule("annotation-quantity", "error", "a limit that is no quantity", annotation_quantity),
    Rule("annotation-zero", "warning", "0, which means no limit", annotation_zero),
    Rule("annotation-no-total", "warning", "a limit of each container that looks like a total", annotation_no_total),
    Rule("annotation-both", "warning", "two families of annotations for one container", annotation_both),
    Rule("annotation-place", "error", "an annotation outside of the pod template", annotation_place),
    Rule("crio-unified", "error", "a CRI-O annotation that fails the container", crio_unified),
    Rule("limit-below-page", "error", "a limit below one page", limit_below_page),
    Rule("limit-below-claim", "warning", "a limit below the claim", limit_below_claim),
    Rule("limit-above-claim", "note", "a limit above the claim", limit_above_claim),
    Rule("pod-limit-below", "warning", "a pod's limit below its claims", pod_limit_below),
    Rule("above-node", "error", "a claim above the node", above_node),
    Rule("limit-above-node", "warning", "a limit above the node", limit_above_node),
    Rule("claim-below-enclave", "warning", "a claim below what the enclave needs", claim_below_enclave),
    Rule("claim-above-enclave", "note", "a claim far above what the enclave calls for", claim_above_enclave),
    Rule("limit-below-enclave", "warning", "a limit below what the enclave needs", limit_below_enclave),
    Rule("enclave-on-demand", "note", "an enclave whose need is not in its configuration", enclave_on_demand),
    Rule("enclave-refused", "error", "an enclave configuration that its runtime refuses", enclave_refused),
)
