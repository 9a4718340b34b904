"""Find EPC claims and limits in Kubernetes manifests that cannot work.

Reads files and folders of YAML, JSON and markdown with fenced YAML; - is standard input. Exit status 0: nothing of the
--fail-on level or worse, 1: something, 2: it could not be looked at. docs/reference/lint.md has every rule.
"""

import argparse
from pathlib import Path

from epcgroup.errors import InputError
from epcgroup.lint import check, enclave, output
from epcgroup.lint.rules import SEVERITIES, Given
from epcgroup.manifest import documents
from epcgroup.units import parse_bytes

FORMATS = {"text": output.text, "json": output.as_json, "sarif": output.sarif}


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST", help="file, folder, or - ")
    parser.add_argument("--epc", metavar="SIZE", help="EPC of the node, e.g. 94Mi: nothing may claim more")
    parser.add_argument(
        "--enclave",
        metavar="[CONTAINER=]FILE",
        action="append",
        default=[],
        help="the enclave's configuration: Gramine manifest, enclave.json (EGo), Occlum.json, SDK XML, Open Enclave",
    )
    parser.add_argument("--ignore", metavar="RULE", action="append", default=[], help="leave a rule out")
    parser.add_argument(
        "--fail-on", choices=(*SEVERITIES, "never"), default="warning", help="exit 1 from here on (default warning)"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="text (default), json, or sarif 2.1.0")


def main(args: argparse.Namespace) -> int:
    found = list(documents.read(args.manifests))
    given = Given(
        epc_bytes=None if args.epc is None else parse_bytes(args.epc, where="--epc"),
        needs=check.needs_of(found, [_enclave(text) for text in args.enclave]),
    )
    findings = check.shortened(check.lint(found, given), args.ignore)
    print(FORMATS[args.format](findings))
    failing = () if args.fail_on == "never" else SEVERITIES[: SEVERITIES.index(args.fail_on) + 1]
    return int(any(finding.severity in failing for finding in findings))


def _enclave(text: str) -> tuple[str, enclave.Need]:
    name, equals, file = text.rpartition("=")
    if equals and not name:
        raise InputError(f'"{text}" is not [CONTAINER=]FILE', where="--enclave")
    return name, enclave.read(Path(file))
