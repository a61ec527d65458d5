"""Who of the committee acts first, and when another takes over.

Every member could do everything that the committee does; all transactions are idempotent. So that they do not all
do the same at once, each duty has an order of members; a member acts when those before it had their time in vain.
"""

import hashlib
from collections.abc import Hashable, Sequence


def compute_rank(committee: Sequence[str], organisation: str, duty: str, first: str | None = None) -> int:
    """Return the member's place in the order for a duty, 0 for the one who acts at once.

    Args:
        committee: The members, ascending.
        organisation: Whose place.
        duty: What is to be done; different duties begin with different members.
        first: The member who comes first whatever the duty; None: the duty decides.
    """
    if first is not None and first in committee:
        start = list(committee).index(first)
    else:
        start = int.from_bytes(hashlib.sha256(duty.encode()).digest()[:8]) % len(committee)
    return (list(committee).index(organisation) - start) % len(committee)


class Watch:
    """When each duty was first seen to be open, on this process's own clock."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}

    def waited(self, duty: Hashable, now: float) -> float:
        """Return the seconds since the duty was first seen; the first look starts the count."""
        return now - self._since.setdefault(duty, now)

    def forget(self, keep: Sequence[Hashable]) -> None:
        """Drop all duties but these."""
        self._since = {duty: since for duty, since in self._since.items() if duty in set(keep)}
