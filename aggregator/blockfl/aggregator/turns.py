"""Who of the committee acts first, and when another takes over.

Every member could do everything that the committee does; all transactions are idempotent. So that they do not all
do the same at once, each duty has an order of members; a member acts when those before it had their time in vain.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

from blockfl.ledger.event import Event
from blockfl.protocol.records import Consortium
from blockfl.protocol.task import TaskSpec

_OF_NO_CONSEQUENCE: Final = frozenset(
    {"MetricsReported", "EquivocationRecorded", "RoundOpened", "UpdateSubmitted", "SumChunkUploaded"}
)
"""A round begins with training, and an update is judged when its chunks are there or its time is over."""
_OF_THE_AGGREGATOR: Final = frozenset({"RoundClosed", "ModelPublished"})
"""What is followed by something that the aggregator does first."""
_VOTING: Final = "vote"
_IDLE_S = 5.0


def choose_first(committee: Sequence[str], duty: str) -> str:
    """Return the member with whom a duty begins; different duties begin with different members."""
    return committee[int.from_bytes(hashlib.sha256(duty.encode()).digest()[:8]) % len(committee)]


def compute_rank(committee: Sequence[str], organisation: str, duty: str, first: str | None = None) -> int:
    """Return the member's place in the order for a duty, 0 for the one who acts at once.

    Args:
        committee: The members, ascending.
        organisation: Whose place.
        duty: What is to be done.
        first: The member who comes first whatever the duty; None: the duty decides.
    """
    start = first if first is not None and first in committee else choose_first(committee, duty)
    return (list(committee).index(organisation) - list(committee).index(start)) % len(committee)


def calls_to_work(event: Event) -> bool:
    """Whether something may be due because of an event; chunks of a round's sum are followed by a transaction."""
    if event.name == "ModelChunkUploaded":
        return not event.notice.round
    return event.name not in _OF_NO_CONSEQUENCE


def is_for_another(event: Event, organisation: str, consortium: Consortium, spec: TaskSpec) -> bool:
    """Whether what an event makes due is another member's turn, so that this one may look a little later.

    Its patience with the other begins with that look.

    Args:
        event: Of the task.
        organisation: The member.
        consortium: Who the committee is.
        spec: The task's; its aggregator comes first for what the task's aggregator does.
    """
    committee, aggregator = consortium.committee, spec.aggregator
    if event.name == "ChunkUploaded":
        duty = name_judging(event.notice.task, event.notice.round)
        return choose_first(committee, duty) != organisation
    if aggregator not in committee or aggregator == organisation:
        return False
    if event.name == "UpdateJudged":
        # The aggregator adds up what is accepted, and closes. What is compared or tried out waits for others, too.
        return spec.effect is None and spec.referee is None
    if event.name == "ModelProposed" and event.notice.organisation in committee:
        # The next in turn votes, if votes are needed; then the aggregator publishes.
        voter = rank_vote(committee, event.notice.organisation, aggregator)
        return not voter + 1 == rank_vote(committee, organisation, aggregator) < consortium.threshold
    return event.name in _OF_THE_AGGREGATOR


def rank_vote(committee: Sequence[str], organisation: str, aggregator: str) -> int:
    """Return the member's place in the order in which votes are cast."""
    return compute_rank(committee, organisation, _VOTING, aggregator)


def name_judging(task: str, number: int) -> str:
    """Return the duty with which a round's judging begins."""
    return f"judge/{task}/{number}"


class DutyClock:
    """When each duty was first seen to be open, on this process's own clock."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}

    def waited(self, duty: Hashable, now: float) -> float:
        """Return the seconds since the duty was first seen; the first look starts the count."""
        return now - self._since.setdefault(duty, now)

    def forget(self, keep: Sequence[Hashable]) -> None:
        """Drop all duties but these."""
        self._since = {duty: since for duty, since in self._since.items() if duty in set(keep)}


@dataclass(frozen=True, kw_only=True)
class AggregatorSettings:
    """What a committee member may choose.

    Attributes:
        tasks: Only these tasks; empty: every task of the ledger.
        enrolment_patience_s: How long the first round waits, once enough institutions have enrolled, for the rest.
        judge_patience_s: After how long the next member judges, closes, votes or gives a round up.
        takeover_s: After how long another member opens, sums, publishes, appraises or settles for the aggregator.
        abandon_slack_s: How long after its publish deadline a round is given up: as much as stated times may be off.
        until_complete: End once every task has had all its rounds.
    """

    tasks: tuple[str, ...] = ()
    enrolment_patience_s: float = 60.0
    judge_patience_s: float = 5.0
    takeover_s: float = 60.0
    abandon_slack_s: float = 30.0
    until_complete: bool = False


@dataclass
class Outlook:
    """What one look at the ledger left to wait for."""

    wake_s: float = _IDLE_S
    complete: bool = True
    duties: list[str] = field(default_factory=list)
