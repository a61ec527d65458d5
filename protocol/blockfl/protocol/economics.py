"""Records of the credits: a task's policy, accounts, standings, scores and settlements.

Credits are integers. At any time granted = treasury + every account + every stake. Shares are in thousandths.

Source: ``docs/economics.md``.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from blockfl.protocol.canonical import MspId, Name, Natural, Positive, Record

TREASURY = "treasury"
"""The account that pays rewards and takes penalties; no organisation's."""
START_REPUTATION = 500
KNOWN_SUMS = 8
"""So many of the last public sums count as known when updates are scored."""

MOVE_INTERVAL_MS = 10_000
"""An organisation's grants and transfers, in the long run: settlements read the accounts that they change, and would
never be valid while accounts change all the time."""
MOVES_AHEAD = 128
"""So many at once, so that everybody can be given credits without waiting."""

Permille = Annotated[int, Field(ge=0, le=1000)]
Points = Annotated[int, Field(ge=-1000, le=1000)]
Verdict = Literal["accepted", "rejected", "equivocated", "absent", "unjudged"]


class Economics(Record):
    """The policy of a task. Without one a task moves no credits.

    ``pool`` is what a round pays at most to institutions; ``member_fee`` and ``aggregator_fee`` what it pays to the
    committee. The stake that an institution needs is ``stake_base`` + its capped samples · ``stake_per_sample``;
    penalties are thousandths of it. ``absence`` grows with each absence in a row, up to ``absence_limit`` times.
    ``publish_s`` is how long after the close the aggregator may take; ``forgery`` a fixed number of credits;
    ``appeal_s`` how long after a settlement a majority may overturn a penalty.
    """

    pool: Natural
    member_fee: Natural
    aggregator_fee: Natural
    stake_base: Positive
    stake_per_sample: Natural
    equivocation: Permille
    norm: Permille
    seal: Permille
    format: Permille
    late: Permille
    absence: Permille
    absence_limit: Annotated[int, Field(ge=1, le=100)]
    reputation_window: Annotated[int, Field(ge=2, le=1000)]
    reputation_floor: Permille
    suspension_rounds: Annotated[int, Field(ge=1, le=1000)]
    publish_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)]
    forgery: Natural
    appeal_s: Annotated[int, Field(ge=1, le=365 * 24 * 3600)]


DEFAULT_ECONOMICS = Economics(
    pool=10_000,
    member_fee=100,
    aggregator_fee=200,
    stake_base=1_000,
    stake_per_sample=20,
    equivocation=1000,
    norm=200,
    seal=200,
    format=100,
    late=20,
    absence=10,
    absence_limit=5,
    reputation_window=8,
    reputation_floor=250,
    suspension_rounds=5,
    publish_s=600,
    forgery=5_000,
    appeal_s=7 * 24 * 3600,
)
"""What ``--economics default`` means."""


class Account(Record):
    """The free credits of an organisation, or of the treasury. Key: ``account/<organisation>``."""

    organisation: MspId
    credits: Natural


class Supply(Record):
    """All credits that were ever granted. Key: ``supply``."""

    granted: Natural


class Receipt(Record):
    """A grant (no source) or a transfer. Key: ``receipt/<by>/<name>``: each name moves credits once."""

    name: Name
    by: MspId
    source: MspId | Literal[""]
    target: MspId
    amount: Positive
    at_ms: Natural


class Pace(Record):
    """How far an organisation's grants and transfers are ahead of one in ten seconds. Key: ``pace/<organisation>``.

    ``due_ms`` is when the next one would be due at that pace.
    """

    organisation: MspId
    due_ms: Natural


class Standing(Record):
    """An institution's credit in a task. Key: ``standing/<task>/<organisation>``.

    ``required`` is the stake that its declared samples need, ``stake`` what is locked; ``debt`` are points below the
    chance level that later points must make up for; ``suspended_until`` the last round without it, 0 when never.
    """

    task: Name
    organisation: MspId
    required: Positive
    stake: Natural
    reputation: Permille
    debt: Natural
    absences: Natural
    suspended_until: Natural
    earned: Natural
    slashed: Natural


class Credit(Record):
    """Points of one accepted update: what it shares with the others beyond the public models and chance."""

    organisation: MspId
    points: Points


class Score(Record):
    """The points of a round. Key: ``score/<task>/<round>``; key-level policy: the committee's threshold."""

    task: Name
    round: Positive
    state: Literal["pending", "scored"]
    credits: tuple[Credit, ...]
    scored_at_ms: Natural


class Payment(Record):
    """What a committee member got, or paid, and why."""

    organisation: MspId
    amount: Natural
    reason: Annotated[str, StringConstraints(max_length=200)]


class Outcome(Record):
    """What a round meant for one institution: ``standing`` is the one after it."""

    organisation: MspId
    verdict: Verdict
    code: Annotated[str, StringConstraints(pattern=r"^(BFL4[0-9]{2})?$")]
    points: Points
    reward: Natural
    penalty: Natural
    standing: Standing


class Settlement(Record):
    """Who earned and paid what in a round. Key: ``settlement/<task>/<round>``; written once.

    ``treasury`` is its balance afterwards. State ``unscored`` says that the committee wrote no points in time.
    """

    task: Name
    round: Positive
    state: Literal["scored", "unscored"]
    outcomes: tuple[Outcome, ...]
    fees: tuple[Payment, ...]
    fines: tuple[Payment, ...]
    treasury: Natural
    settled_at_ms: Natural


class Objection(Record):
    """A member's vote to overturn what a round cost an organisation.

    Key: ``objection/<task>/<round>/<organisation>/<voter>``.
    """

    task: Name
    round: Positive
    organisation: MspId
    voter: MspId
    voted_at_ms: Natural


class Reversal(Record):
    """A penalty that a majority of organisations has overturned. Key: ``reversal/<task>/<round>/<organisation>``.

    ``penalty`` went back into the stake, ``fine`` into the account; ``voters`` ascend.
    """

    task: Name
    round: Positive
    organisation: MspId
    penalty: Natural
    fine: Natural
    voters: tuple[MspId, ...]
    reversed_at_ms: Natural
