"""Findings as text (a line each), JSON, and SARIF 2.1.0 for code scanning."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from epcgroup import __version__
from epcgroup.lint.check import ALL, Finding
from epcgroup.lint.rules import SEVERITIES

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def text(findings: Sequence[Finding]) -> str:
    """`file:line: severity: rule: where: message; allowed: ...; fix: ...`, and a line of counts."""
    return "\n".join([*map(_line, findings), counts(findings)])


def _line(finding: Finding) -> str:
    place = finding.file if finding.line is None else f"{finding.file}:{finding.line}"
    who = ", ".join(part for part in (finding.pod, finding.container and f"container {finding.container}") if part)
    return (
        f"{place}: {finding.severity}: {finding.rule}: {who}{': ' if who else ''}{finding.message}; "
        f"allowed: {finding.allowed}; fix: {finding.fix}"
    )


def counts(findings: Sequence[Finding]) -> str:
    found = Counter(finding.severity for finding in findings)
    parts = [f"{found[name]} {name}{'' if found[name] == 1 else 's'}" for name in SEVERITIES if found[name]]
    return ", ".join(parts) or "nothing found"


def as_json(findings: Sequence[Finding]) -> str:
    return json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=1)


def sarif(findings: Sequence[Finding]) -> str:
    """One SARIF run: every rule, and a result for each finding."""
    numbers = {name: number for number, (name, _, _) in enumerate(ALL)}
    driver = {
        "name": "epcgroup",
        "semanticVersion": __version__,
        "rules": [
            {"id": name, "shortDescription": {"text": title}, "defaultConfiguration": {"level": severity}}
            for name, severity, title in ALL
        ],
    }
    results = [_result(finding, numbers[finding.rule]) for finding in findings]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def _result(finding: Finding, number: int) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(finding.file)}}
    if finding.line is not None:
        place["region"] = {"startLine": finding.line}
    location: dict[str, Any] = {"physicalLocation": place}
    names = [part for part in (finding.pod, finding.container) if part]
    if names:
        location["logicalLocations"] = [{"fullyQualifiedName": "/".join(names)}]
    message = f"{finding.message}. Allowed: {finding.allowed}. Fix: {finding.fix}."
    return {
        "ruleId": finding.rule,
        "ruleIndex": number,
        "level": finding.severity,
        "message": {"text": message},
        "locations": [location],
    }
