"""Runs the rules over documents. What Kubernetes would not take, and no rule names, is `refused`; a file or document
that nothing could be said about is `not-checked`: both are rules without a function of their own."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from epcgroup.errors import InputError, nearest
from epcgroup.lint.enclave import Need
from epcgroup.lint.rules import CRIO, QUOTE_PROVIDER, RULES, Given, Severity
from epcgroup.lint.view import PodView, views
from epcgroup.manifest import kubernetes
from epcgroup.manifest.annotations import is_epc
from epcgroup.manifest.documents import Document
from epcgroup.manifest.pod import Skipped

REFUSED, NOT_CHECKED = "refused", "not-checked"
# Every rule: id, severity, title.
ALL: tuple[tuple[str, Severity, str], ...] = (
    *((rule.id, rule.severity, rule.title) for rule in RULES),
    (REFUSED, "error", "a pod that Kubernetes would not take for another reason"),
    (NOT_CHECKED, "warning", "a document that could not be looked at"),
)


@dataclass(frozen=True)
class Finding:
    rule: str
    severity: Severity
    file: str
    line: int | None
    document: str  # the file, and which document of it
    pod: str  # "Deployment web"; empty: the finding is about the document
    container: str
    message: str
    allowed: str
    fix: str


def lint(documents: Iterable[Document | Skipped], given: Given) -> Iterator[Finding]:
    """The findings, in the order of the documents and of the table."""
    for document in documents:
        if isinstance(document, Skipped):
            yield _not_checked(document.origin, document.reason)
            continue
        try:
            pods = list(views(document))
        except InputError as error:
            yield _not_checked(document.origin, str(error))
            continue
        for pod in pods:
            yield from _check(pod, given)
        # An object of a cluster that has no pods (NodeFeatureRule) is in order.
        if not pods and isinstance(document.value, dict) and "kind" not in document.value:
            for claim in dict.fromkeys(kubernetes.sizes_in(document.value, "", set())):
                yield _not_checked(document.origin, f"no pod template, but {claim}")


def _check(pod: PodView, given: Given) -> Iterator[Finding]:
    found = []
    for rule in RULES:
        for fault in rule.check(pod, given):
            found.append(
                Finding(
                    rule=rule.id,
                    severity=rule.severity,
                    file=fault.file or pod.file,
                    line=None if fault.file else fault.line or pod.line,
                    document=fault.file or pod.origin,
                    pod=f"{pod.kind} {pod.name}",
                    container=fault.container,
                    message=fault.message,
                    allowed=fault.allowed,
                    fix=fault.fix,
                )
            )
    yield from found
    if pod.refusal and _has_epc(pod) and all(finding.severity != "error" for finding in found):
        yield Finding(
            rule=REFUSED,
            severity="error",
            file=pod.file,
            line=pod.line,
            document=pod.origin,
            pod=f"{pod.kind} {pod.name}",
            container="",
            message=pod.refusal,
            allowed="what the API server takes",
            fix="correct it; kubectl apply --dry-run=server says more",
        )


def _has_epc(pod: PodView) -> bool:
    keys = (*pod.annotations, *pod.above)
    return any(c.amounts for c in pod.containers) or any(
        is_epc(key) or key == QUOTE_PROVIDER or key.startswith(CRIO) for key in keys
    )


def _not_checked(origin: str, reason: str) -> Finding:
    return Finding(
        rule=NOT_CHECKED,
        severity="warning",
        file=origin.partition(", ")[0],
        line=None,
        document=origin,
        pod="",
        container="",
        message=reason,
        allowed="Kubernetes manifests as YAML or JSON",
        fix="render or correct it, or leave it out",
    )


def shortened(findings: Iterable[Finding], ignored: Collection[str]) -> list[Finding]:
    """Without the rules that were ignored; InputError for a rule that there is not."""
    names = [name for name, _, _ in ALL]
    for name in ignored:
        if name not in names:
            raise InputError(f'no rule "{name}"{nearest(name, names)}', where="--ignore")
    return [finding for finding in findings if finding.rule not in ignored]


def needs_of(documents: Iterable[Document | Skipped], given: Iterable[tuple[str, Need]]) -> Mapping[str, Need]:
    """Which container each enclave configuration is of: (name, need); without a name it is of the one that claims EPC.

    InputError when there is no such container, or several claim.
    """
    pods: list[PodView] = []
    for document in documents:
        try:
            pods += views(document) if isinstance(document, Document) else ()
        except InputError:
            continue  # said by lint
    names = {name for pod in pods for name in pod.names}
    claiming = sorted({c.name for pod in pods for c in pod.containers if c.claim})
    needs: dict[str, Need] = {}
    for name, need in given:
        if not name and len(claiming) != 1:
            some = f"several containers claim EPC ({', '.join(claiming)})" if claiming else "no container claims EPC"
            raise InputError(f"{some}; name one: --enclave CONTAINER={need.file}", where="--enclave")
        if name and name not in names:
            raise InputError(f'no container "{name}" in the manifests{nearest(name, sorted(names))}', where="--enclave")
        needs[name or claiming[0]] = need
    return needs
