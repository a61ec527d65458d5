"""What sums disclose, and the rules of a task that bound it: no weight dominates, no two sums differ by one or two.

Owns: how weights are cut to a share of their sum, and which accepted sets are too much like the last one. That no sum
can be read before its round is certain to be published is ``blockfl.protocol.publication``'s.

    limit_shares({"alpha": 255, "beta": 9, "delta": 9}, 500_000)   # {"alpha": 18, "beta": 9, "delta": 9}

Source: ``docs/protocol.md``, what sums tell.
"""

from collections.abc import Collection, Mapping
from typing import Final

from blockfl.protocol.norm_rules import MICRO

DISCLOSING_CHANGES: Final = 2
"""So many institutions more or fewer, and the difference of two sums is mostly their updates."""


def limit_shares(weights: Mapping[str, int], share_max_micro: int) -> dict[str, int]:
    """Return the weights, each cut to the largest integer with which none is over its share of their sum.

    Args:
        weights: by organisation, each at least 1.
        share_max_micro: the largest share of the sum, in millionths.

    Raises:
        ValueError: even equal weights are over it.
    """
    for cap in range(max(weights.values(), default=0), 0, -1):
        cut = {organisation: min(weight, cap) for organisation, weight in weights.items()}
        if cap * MICRO <= share_max_micro * sum(cut.values()):
            return cut
    raise ValueError(f"{len(weights)} weights cannot each be at most {share_max_micro} millionths of their sum")


def is_disclosing(accepted: Collection[str], last_accepted: Collection[str]) -> bool:
    """Whether the sum of these institutions, beside that of the last published round, shows one's or two's update."""
    return 1 <= len({*accepted} ^ {*last_accepted}) <= DISCLOSING_CHANGES
