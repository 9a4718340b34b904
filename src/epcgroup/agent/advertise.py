"""EPC as an extended resource of the node, which the scheduler counts claims against: capacity less a reserve.

A JSON patch of the node's status sets it in `capacity`; kubelet copies it to `allocatable`. Kubelet also drops it when
it registers the node anew, and others (NFD, epc hooks) may set it: the node is watched, and what says something else is
patched again, at longer and longer intervals while that does not last. In modes observe and warn, and in a dry run,
nothing is patched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from epcgroup.agent.endpoint import JSON_PATCH, Endpoint
from epcgroup.agent.policy import Mode
from epcgroup.agent.watch import Watch
from epcgroup.errors import InputError
from epcgroup.manifest import quantity
from epcgroup.units import quoted

NODES = "/api/v1/nodes"
NUMA_NODES = Path("/sys/devices/system/node")
FIRST_DELAY, LAST_DELAY = 10.0, 300.0  # seconds until what did not last is patched again


@dataclass(frozen=True)
class Advertise:
    """What the configuration says."""

    resource: str
    mode: Mode


class Advertiser:
    def __init__(
        self,
        endpoint: Endpoint,
        node: str,
        config: Advertise,
        say: Callable[[str], None],
        once: Callable[[str], None],
        *,
        reserve_bytes: int = 0,
        dry_run: bool = False,
        watching: Callable[..., Watch[Any]] = Watch,
        numa: Path = NUMA_NODES,
    ) -> None:
        """`say` takes a line; `once` one that is not said again while it stays true."""
        self._endpoint, self._node, self._config = endpoint, node, config
        self._say, self._once = say, once
        self._reserve_bytes, self._dry_run, self._numa = reserve_bytes, dry_run, numa
        self._watch: Watch[Any] = watching(endpoint, NODES, f"metadata.name={node}", self._capacity)
        self._patches, self._next = 0, 0.0  # in a row; when the next may be, seconds since 1970

    def close(self) -> None:
        self._watch.close()

    def turn(self, capacity_bytes: int | None, now: float) -> None:
        """`capacity_bytes` is that of the misc controller; without it, what sysfs says. InputError when the API server
        cannot be asked, or refuses."""
        capacity = capacity_bytes or numa_capacity(self._numa)
        resource, name = self._config.resource, f"node {self._node}"
        if not capacity:
            self._once(f"{name}: no EPC is known, {resource} is left as it is")
            return
        wanted = max(0, capacity - self._reserve_bytes)
        found = self._watch.look().objects
        if not found:
            self._once(f"{name}: the API server knows no such node")
            return
        if _bytes(found[0]) == wanted:
            self._patches = 0
            return
        says = "has none" if found[0] is None else f"says {quoted(found[0])}"
        if self._config.mode == "observe":
            return
        if self._config.mode == "warn" or self._dry_run:
            would = "would be" if self._dry_run else "should be"
            self._once(f"{name}: {resource} {would} {wanted}; it {says}")
            return
        if now < self._next:
            return
        self._next = now + min(LAST_DELAY, FIRST_DELAY * 2**self._patches)
        self._patches = min(self._patches + 1, 10)
        path = f"/status/capacity/{resource.replace('~', '~0').replace('/', '~1')}"
        body = [{"op": "add", "path": path, "value": str(wanted)}]
        self._endpoint.request(
            "PATCH", f"{NODES}/{quote(self._node, safe='')}/status", body=body, content_type=JSON_PATCH
        )
        self._say(f"{name}: set {resource} to {wanted}; it {says.replace('has', 'had').replace('says', 'said')}")

    def _capacity(self, node: dict[str, Any]) -> Any:
        """What the node says of the resource; None: nothing."""
        status = node.get("status")
        amounts = status.get("capacity") if isinstance(status, dict) else None
        return amounts.get(self._config.resource) if isinstance(amounts, dict) else None


def numa_capacity(folder: Path = NUMA_NODES) -> int:
    """EPC of all NUMA nodes by mainline's sysfs; 0 where it does not say."""
    total = 0
    for file in folder.glob("node[0-9]*/x86/sgx_total_bytes"):
        try:
            total += int(file.read_text())
        except (OSError, ValueError):
            return 0
    return total


def _bytes(amount: Any) -> int | None:
    """The API server writes 94000000 as 94M; None for what is no number."""
    try:
        return int(quantity.parse(amount))
    except InputError:
        return None
