"""What a command line names: Kubernetes manifests, OCI bundles, directories of them, standard input (`-`).

Told apart by content, not by name. A file that cannot be opened, or an OCI configuration that a runtime would
refuse, is an InputError; what yields no pod is Skipped.
"""

from collections.abc import Sequence
from pathlib import Path

from epcgroup.manifest import documents, kubernetes, oci
from epcgroup.manifest.pod import Pod, Skipped


def read(paths: Sequence[Path]) -> tuple[list[Pod], list[Skipped]]:
    """All pods in the order of the files, their names made unique, and what was skipped and why."""
    pods: list[Pod] = []
    skipped: list[Skipped] = []
    for document in documents.read(paths):
        if isinstance(document, Skipped):
            skipped.append(document)
        elif oci.is_config(document.value):
            pods.append(oci.read_document(document))
        else:
            for result in kubernetes.read_document(document):
                if isinstance(result, Pod):
                    pods.append(result)
                else:
                    skipped.append(result)
    return kubernetes.unique_names(pods), skipped
