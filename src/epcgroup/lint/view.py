"""A pod template as a rule sees it: what stands in the file, right or wrong, and on which line.

Unlike manifest.pod, which holds what Kubernetes would take, nothing is refused here: an amount that cannot be read is
kept beside the reason. Shapes that leave nothing to look at (containers that are no list) are an InputError.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from epcgroup.errors import InputError
from epcgroup.manifest import kubernetes, quantity
from epcgroup.manifest.documents import Document
from epcgroup.manifest.pod import Container, ContainerKind, Pod
from epcgroup.manifest.yamltext import line_of

PARTS = ("limits", "requests")


@dataclass(frozen=True)
class Amount:
    """One resource of one container, in one of the two parts."""

    part: str  # limits or requests
    resource: str
    value: object  # as it stands in the file
    number: int | None  # of a size bytes, else a count; None: `fault` says why
    fault: str
    line: int | None


@dataclass(frozen=True)
class ContainerView:
    name: str
    kind: ContainerKind
    amounts: tuple[Amount, ...]  # of SGX resources
    line: int | None

    @property
    def claim(self) -> Amount | None:
        """The first EPC size that can be read, of the limits before the requests."""
        return next((a for a in self.amounts if a.resource in kubernetes.SIZES and a.number), None)

    def asks_for(self, *resources: str) -> bool:
        return any(a.resource in resources for a in self.amounts)


@dataclass(frozen=True)
class PodView:
    origin: str  # the document, as messages show it
    file: str
    kind: str
    name: str
    containers: tuple[ContainerView, ...]
    annotations: Mapping[str, object]  # of the pod template
    above: Mapping[str, object]  # annotations of the object round the template; empty for a Pod
    line: int | None
    refusal: str  # why Kubernetes would not take it; empty: it would, as far as we know

    @property
    def texts(self) -> dict[str, str]:
        """The annotations that are text."""
        return {key: value for key, value in self.annotations.items() if isinstance(value, str)}

    @property
    def names(self) -> list[str]:
        return [container.name for container in self.containers]

    @property
    def demand(self) -> int | None:
        """Bytes that the scheduler counts for one pod, of the claims that can be read."""
        containers = (
            Container(c.name, c.kind, claim_bytes=c.claim.number if c.claim else None) for c in self.containers
        )
        return Pod(self.name, tuple(containers)).claim_bytes

    def line_of(self, annotation: str) -> int | None:
        return line_of(self.annotations, annotation) or line_of(self.above, annotation) or self.line


def views(document: Document) -> Iterator[PodView]:
    """Every pod template of a document; InputError for what cannot be looked at."""
    value = document.value
    if not isinstance(value, dict):
        return
    items = value.get("items")
    if isinstance(items, list) and isinstance(value.get("kind"), str) and value["kind"].endswith("List"):
        for number, item in enumerate(items, 1):
            yield from views(Document(item, f"{document.origin}, item {number}", document.path))
        return
    for template in kubernetes.templates(value):
        yield _view(value, template, document)


def _view(root: dict[str, Any], template: kubernetes.Template, document: Document) -> PodView:
    spec = template.value["spec"]
    metadata = kubernetes.checked_mapping(template.value.get("metadata"), "metadata of the pod template")
    annotations = kubernetes.checked_mapping(metadata.get("annotations"), "annotations of the pod template")
    own = kubernetes.mapping(kubernetes.mapping(root.get("metadata")).get("annotations"))
    refusal, name = "", "?"
    try:
        name = kubernetes.name_of(root, document.path)
        kubernetes.pod_of(root, template, name, document.origin)
    except InputError as error:
        refusal = str(error)
    return PodView(
        origin=document.origin,
        file=document.origin.partition(", ")[0],
        kind=kubernetes.shown(root.get("kind") or "Pod"),
        name=name,
        containers=tuple(_container(c, kind) for c, kind in kubernetes.container_specs(spec)),
        annotations=annotations,
        above={} if template.value is root else own,
        line=line_of(spec, "containers"),
        refusal=refusal,
    )


def _container(value: dict[str, Any], kind: ContainerKind) -> ContainerView:
    name = kubernetes.shown(value.get("name"))
    resources = kubernetes.mapping(value.get("resources"))
    amounts = tuple(
        _amount(part, resource, amounts, resources)
        for part in PARTS
        for amounts in [kubernetes.mapping(resources.get(part))]
        for resource in amounts
        if resource in kubernetes.SIZES or kubernetes.SGX_RESOURCE.fullmatch(resource)
    )
    return ContainerView(name, kind, amounts, line_of(value, "name") or line_of(value, "resources"))


def _amount(part: str, resource: str, amounts: dict[str, Any], resources: dict[str, Any]) -> Amount:
    value, line = amounts[resource], line_of(amounts, resource) or line_of(resources, part)
    try:
        number = quantity.parse_whole(value, unit_bytes=kubernetes.SIZES.get(resource, 1))
    except InputError as error:
        return Amount(part, resource, value, None, str(error), line)
    return Amount(part, resource, value, number, "", line)
