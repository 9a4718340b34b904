"""Who claims how much of the node's EPC, and who uses more than that. Numbers in, numbers out, all in bytes.

A claim is what the scheduler counted (manifest/pod.py, Pod.claim_bytes); nothing enforces it where limits are not
written. Over-claimed is what pods use beyond their own claims: unused claims of others do not make up for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Account:
    """Of one node."""

    capacity: int | None  # None: the node does not say
    reserved: int  # kept back for VA pages, architectural enclaves and the like
    claimed: int
    used: int  # by pods
    over_claimed: int

    @property
    def allocatable(self) -> int | None:
        """What the node should offer to the scheduler."""
        return None if self.capacity is None else max(0, self.capacity - self.reserved)

    @property
    def unclaimed(self) -> int | None:
        return None if self.allocatable is None else max(0, self.allocatable - self.claimed)


def over_claimed(claim: int, used: int) -> int:
    """Of one pod."""
    return max(0, used - claim)


def account(capacity: int | None, reserved: int, pods: Iterable[tuple[int, int]]) -> Account:
    """The node's account of its pods, (claim, used) each."""
    rows = list(pods)
    return Account(
        capacity=capacity,
        reserved=reserved,
        claimed=sum(claim for claim, _ in rows),
        used=sum(used for _, used in rows),
        over_claimed=sum(over_claimed(claim, used) for claim, used in rows),
    )
