"""From a closed round to a model version, or to none: the committee's votes, and when a round is given up.

Owns: who may vote, how many equal votes make a version, when a round that has none may be abandoned. Rules only; the
contract reads and writes.

    vote = cast_vote(round_, aggregate, votes, organisation, digest, now_ms)
    made = publish_round(round_, progress, aggregate, {**votes, organisation: vote}, digest, now_ms)

Source: ``docs/protocol.md``, one round.
"""

from collections.abc import Mapping, Sequence

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.moment import format_moment
from blockfl.protocol.records import Aggregate, Model, Organisations, Progress, Round, Vote
from blockfl.protocol.round import check_closed


def cast_vote(
    round_: Round, aggregate: Aggregate, votes: Mapping[str, Vote], organisation: str, digest: str, now_ms: int
) -> Vote:
    """Return an organisation's vote for a model digest: its earlier one if it has said the same before.

    Args:
        round_: A closed round.
        aggregate: Its sum, which must be attested.
        votes: The votes of the round's committee so far, by organisation.
        organisation: Whose vote.
        digest: Of the model that it arrived at.
        now_ms: The transaction's time.

    Raises:
        ProtocolError: BFL107 if the round is not closed, BFL202 if the organisation is not in the round's committee,
            BFL502 if the sum is not attested, BFL504 if it has voted for another digest before.
    """
    check_closed(round_)
    committee = [one.organisation for one in round_.committee]
    if organisation not in committee:
        raise ProtocolError(
            Code.NOT_COMMITTEE,
            f"expected a member of round {round_.round}'s committee ({', '.join(committee)}), got {organisation!a}",
        )
    if aggregate.state != "attested":
        raise ProtocolError(
            Code.NOT_ATTESTED, f"the sum of round {round_.round} of {round_.task} is not attested yet: attest it first"
        )
    earlier = votes.get(organisation)
    if earlier is None:
        return Vote(task=round_.task, round=round_.round, organisation=organisation, digest=digest, voted_at_ms=now_ms)
    if earlier.digest != digest:
        raise ProtocolError(
            Code.ALREADY_SETTLED,
            f"{organisation} has voted for {earlier.digest} in round {round_.round} of {round_.task}, not {digest}: "
            "a vote is never changed",
        )
    return earlier


def list_voters(votes: Mapping[str, Vote], digest: str) -> Organisations:
    """Return who has voted for a digest, ascending."""
    return tuple(sorted(name for name, vote in votes.items() if vote.digest == digest))


def publish_round(
    round_: Round, progress: Progress, aggregate: Aggregate, votes: Mapping[str, Vote], digest: str, now_ms: int
) -> tuple[Round, Progress, Model] | None:
    """Return the records that the decisive vote writes: the round published, the progress, the new model version.

    Whose updates count, and for how much, is the round's word, which a majority wrote, not that of the sum's record,
    which the committee alone can write.

    Args:
        round_: A closed round.
        progress: Where its task stands.
        aggregate: The round's attested sum.
        votes: The votes of the round's committee, the decisive one included.
        digest: The model that was voted for.
        now_ms: The transaction's time.

    Returns:
        None as long as fewer than the round's threshold name the digest.
    """
    voters = list_voters(votes, digest)
    if len(voters) < round_.threshold or aggregate.sum is None or aggregate.summed_by is None:
        return None
    model = Model(
        task=round_.task,
        version=progress.version + 1,
        round=round_.round,
        digest=digest,
        base_digest=round_.base_digest,
        sum=aggregate.sum,
        scale=round_.scale,
        divisor=round_.divisor,
        accepted=round_.accepted,
        summed_by=aggregate.summed_by,
        voters=voters,
        published_at_ms=now_ms,
    )
    return (
        round_.model_copy(update={"state": "published"}),
        progress.model_copy(update={"version": model.version, "model_digest": digest}),
        model,
    )


def abandon_round(round_: Round, now_ms: int) -> Round:
    """Return the round given up: failed, so that the next opens on the same base model.

    Raises:
        ProtocolError: BFL505 if too few updates were accepted, BFL504 if it is published, BFL107 if it is open, BFL507
            before its publish deadline is over.
    """
    if round_.failure == "abandoned":
        return round_
    check_not_failed(round_)
    if round_.state == "published":
        raise ProtocolError(
            Code.ALREADY_SETTLED, f"round {round_.round} of {round_.task} is published, it cannot be abandoned"
        )
    check_closed(round_)
    if now_ms <= round_.publish_deadline_ms:
        raise ProtocolError(
            Code.PUBLISH_PENDING,
            f"round {round_.round} of {round_.task} may be published until "
            f"{format_moment(round_.publish_deadline_ms)}, the transaction's time is {format_moment(now_ms)}",
        )
    return round_.model_copy(update={"state": "failed", "failure": "abandoned"})


def check_not_failed(round_: Round) -> None:
    """Check that the round can have a sum and a model.

    Raises:
        ProtocolError: BFL506 if it was abandoned, BFL505 if too few updates were accepted.
    """
    if round_.failure == "abandoned":
        raise ProtocolError(
            Code.ROUND_ABANDONED, f"round {round_.round} of {round_.task} was abandoned: open the next round"
        )
    if round_.state == "failed":
        raise ProtocolError(
            Code.TOO_FEW_ACCEPTED,
            f"round {round_.round} of {round_.task} failed, it has no sum: open the next round",
        )


def find_version_without(models: Sequence[Model], organisation: str) -> int:
    """Return the last version of a model in which no update of an organisation has a part.

    Args:
        models: All versions, ascending from 0.
        organisation: Its MSP id.
    """
    return next((one.version - 1 for one in models if organisation in one.accepted), models[-1].version)
