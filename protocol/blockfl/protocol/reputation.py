"""Who may take part: reputation, suspension, and a stake that is still worth something.

Reputation is an integer moving average of what rounds said, in thousandths: 1000 for an update that was paid, 500 for
one that was accepted without, 0 for none or a rejected one. An institution below the floor sits out, and comes back at
the floor: the next failure suspends again.

Source: ``docs/economics.md``, reputation.
"""

from collections.abc import Mapping
from typing import Final

from blockfl.protocol.economics import Economics, Standing, Verdict

PAID: Final = 1000
UNPAID: Final = 500


def compute_reputation(policy: Economics, reputation: int, verdict: Verdict, *, paid: bool) -> int:
    """Return the reputation after a round: ⌊(r·(w − 1) + target) / w⌋; unchanged if the committee failed to judge."""
    if verdict == "unjudged":
        return reputation
    target = (PAID if paid else UNPAID) if verdict == "accepted" else 0
    return (reputation * (policy.reputation_window - 1) + target) // policy.reputation_window


def suspend(policy: Economics, standing: Standing, number: int) -> Standing:
    """Return the standing after round ``number``: suspended if its reputation fell below the floor."""
    if standing.reputation >= policy.reputation_floor:
        return standing
    return standing.model_copy(
        update={"reputation": policy.reputation_floor, "suspended_until": number + policy.suspension_rounds}
    )


def has_stake(standing: Standing) -> bool:
    """Whether at least half of the required stake is left."""
    return 2 * standing.stake >= standing.required


def list_eligible(standings: Mapping[str, Standing], *, number: int, minimum: int) -> tuple[str, ...]:
    """Return who may take part in round ``number``, ascending.

    The institutions that have stake and are not suspended; if those are fewer than the round needs, the suspended ones
    as well: suspensions count rounds, and no round would ever open.
    """
    staked = tuple(name for name in sorted(standings) if has_stake(standings[name]))
    active = tuple(name for name in staked if standings[name].suspended_until < number)
    return active if len(active) >= minimum else staked
