"""What people hand in: Kubernetes manifests and OCI bundles, read into pods and their EPC claims.

`read` takes files and directories; pod.py has the records that every reader returns. Nothing here knows the
engine: the node agent reads with the same code.
"""

from epcgroup.manifest.files import read

__all__ = ["read"]
