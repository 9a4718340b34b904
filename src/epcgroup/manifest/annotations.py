"""Pod annotations that set EPC limits: those of nri-plugins' sgx-epc and our own.

epc-limit.nri.io/container.<C>, epc-limit.nri.io/pod, epc-limit.nri.io
    decimal bytes for one container; the first that is there counts, 0 is no limit. `/pod` is no total: every
    container of the pod gets it.
epcgroup.io/limit.<C>, epcgroup.io/pod-limit
    Kubernetes quantities or `max`: the limit of one container, which overrides the above, or of the pod.
epcgroup.io/use
    what the simulated workload touches; read by the simulator, kept here as it stands.
"""

from collections.abc import Mapping, Sequence

from epcgroup.errors import InputError, nearest
from epcgroup.interface import UNLIMITED
from epcgroup.manifest import quantity
from epcgroup.units import PAGE_SIZE, quoted

NRI = "epc-limit.nri.io"
NRI_POD = f"{NRI}/pod"
NRI_CONTAINER = f"{NRI}/container."
LIMIT = "epcgroup.io/limit."
POD_LIMIT = "epcgroup.io/pod-limit"
USE = "epcgroup.io/use"
CRIO = "unified-cgroup.crio.io/"  # and a container: `FILE=VALUE;...`, which CRI-O itself puts into its OCI spec

_OURS = "epcgroup.io/"


def is_epc(key: str) -> bool:
    """Whether the annotation is one of these families."""
    return key == NRI or key.startswith((f"{NRI}/", _OURS))


def container_key(annotations: Mapping[str, str], container: str) -> str | None:
    """The annotation that counts for one container, ours before upstream's; None: there is none."""
    keys = (LIMIT + container, NRI_CONTAINER + container, NRI_POD, NRI)
    return next((key for key in keys if key in annotations), None)


def limit(annotations: Mapping[str, str], key: str) -> int | None:
    """The limit in bytes that the annotation `key` sets; None: it says that there is none.

    InputError with key and value for what upstream would fail the container's creation on.
    """
    return (_quantity if key.startswith(_OURS) else _decimal)(annotations, key)


def container_limit(annotations: Mapping[str, str], container: str) -> int | None:
    """The limit in bytes that annotations set for one container; None for none. InputError as `limit`."""
    key = container_key(annotations, container)
    return None if key is None else limit(annotations, key)


def pod_limit(annotations: Mapping[str, str]) -> int | None:
    """The limit in bytes of the whole pod (misc.max of its cgroup); None for none."""
    return _quantity(annotations, POD_LIMIT) if POD_LIMIT in annotations else None


def remarks(annotations: Mapping[str, str], containers: Sequence[str]) -> list[str]:
    """A line for each annotation of these families that has no effect."""
    lines = []
    for key in sorted(filter(is_epc, annotations)):
        for prefix in (NRI_CONTAINER, LIMIT):
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                if name not in containers:
                    hint = nearest(name, containers)
                    lines.append(f"annotation {quoted(key)} names no container of the pod{hint}")
                break
        else:
            if key not in (NRI, NRI_POD, POD_LIMIT) and not key.startswith(USE):
                hint = nearest(
                    key, (LIMIT + "<container>", POD_LIMIT, USE, NRI_CONTAINER + "<container>", NRI_POD)
                )
                lines.append(f"annotation {quoted(key)} is not known{hint}")
    return lines


def below_one_page(what: str, limit_bytes: int | None) -> list[str]:
    """The remark for a limit that lets no page in."""
    if limit_bytes is None or limit_bytes >= PAGE_SIZE:
        return []
    return [
        f"{what} of {limit_bytes} bytes is less than one EPC page ({PAGE_SIZE}): no enclave can be created"
    ]


def _decimal(annotations: Mapping[str, str], key: str) -> int | None:
    value = annotations[key]
    if not (value.isascii() and value.isdigit()) or len(value.lstrip("0")) > 20 or int(value) > UNLIMITED:
        raise InputError(
            f"{quoted(value)} is not decimal bytes, 0 to 2**64-1: the NRI plugin would fail the container",
            key=f"annotation {key}",
        )
    return int(value) if 0 < int(value) < UNLIMITED else None


def _quantity(annotations: Mapping[str, str], key: str) -> int | None:
    value = annotations[key]
    return None if value == "max" else quantity.parse_whole(value, key=f"annotation {key}")
