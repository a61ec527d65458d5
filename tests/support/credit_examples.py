"""One example of each record of credits, for vectors and fuzzing."""

from __future__ import annotations

from blockfl.protocol.canonical import Record
from blockfl.protocol.economics import (
    Account,
    Credit,
    Objection,
    Outcome,
    Pace,
    Payment,
    Receipt,
    Reversal,
    Score,
    Settlement,
    Standing,
    Supply,
)
from support.federation import NOW_MS


def make_credit_examples() -> dict[str, Record]:
    """Return one example of each record of credits that stands under a key."""
    standing = Standing(
        task="heart",
        organisation="alpha",
        required=4980,
        stake=3984,
        reputation=437,
        debt=0,
        absences=0,
        suspended_until=6,
        earned=1234,
        slashed=996,
    )
    outcome = Outcome(
        organisation="alpha",
        verdict="rejected",
        code="BFL416",
        points=-120,
        reward=0,
        penalty=996,
        standing=standing,
    )
    return {
        "account": Account(organisation="alpha", credits=2**53 - 1),
        "supply": Supply(granted=1_040_000),
        "pace": Pace(organisation="alpha", due_ms=NOW_MS + 40_000),
        "grant": Receipt(name="endowment", by="coordinator", source="", target="alpha", amount=10_000, at_ms=NOW_MS),
        "transfer": Receipt(name="thanks", by="alpha", source="alpha", target="beta", amount=25, at_ms=NOW_MS),
        "standing": standing,
        "pending score": Score(task="heart", round=1, state="pending", credits=(), scored_at_ms=0),
        "score": Score(
            task="heart",
            round=1,
            state="scored",
            credits=(Credit(organisation="alpha", points=-120), Credit(organisation="beta", points=456)),
            scored_at_ms=NOW_MS,
        ),
        "settlement": Settlement(
            task="heart",
            round=1,
            state="scored",
            outcomes=(outcome,),
            fees=(Payment(organisation="regulator", amount=100, reason="member of the committee"),),
            fines=(Payment(organisation="coordinator", amount=5_000, reason="a sum that was not one"),),
            treasury=995_896,
            settled_at_ms=NOW_MS,
        ),
        "objection": Objection(task="heart", round=1, organisation="alpha", voter="beta", voted_at_ms=NOW_MS),
        "reversal": Reversal(
            task="heart",
            round=1,
            organisation="alpha",
            penalty=996,
            fine=0,
            voters=("beta", "coordinator", "delta", "gamma"),
            reversed_at_ms=NOW_MS,
        ),
    }
