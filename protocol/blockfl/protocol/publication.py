"""From a closed round to a model version, or to none: its sum, the committee's votes, and when a round is given up.

Owns: who may vote, how many equal votes decide, when the sum may be read by everybody, when a round without a version
may be abandoned. No sum can be read before its round is certain to be published: members vote for the model first, and
a round on whose model they agree is never abandoned. Rules only; the contract reads and writes.

    vote = cast_vote(round_, aggregate, votes, organisation, digest, now_ms)
    check_readable(round_, aggregate, votes, chunk_digest)
    made = publish_round(round_, progress, aggregate, {**votes, organisation: vote}, digest, now_ms)

Source: ``docs/protocol.md``, one round.
"""

from collections.abc import Mapping, Sequence

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.moment import format_moment
from blockfl.protocol.records import Aggregate, Blob, Model, Organisations, Progress, Round, Vote
from blockfl.protocol.round import check_closed


def create_aggregate(round_: Round) -> Aggregate:
    """Return the record of a closed round's sum, which the committee is to attest.

    Raises:
        ProtocolError: BFL107 if the round is not closed.
    """
    check_closed(round_)
    return Aggregate(
        task=round_.task,
        round=round_.round,
        state="pending",
        accepted=round_.accepted,
        divisor=round_.divisor,
        sum=None,
        summed_by=None,
        attested_at_ms=0,
    )


def attest_aggregate(aggregate: Aggregate, round_: Round, total: Blob, summed_by: str, now_ms: int) -> Aggregate:
    """Return the aggregate attested with this sum; whether it is the sum is for the caller to have checked.

    The first to bring it stays the one who did.

    Raises:
        ProtocolError: BFL107 if the round is not closed, BFL504 if another sum was attested before.
    """
    if aggregate.state == "attested":
        if aggregate.sum != total:
            raise ProtocolError(
                Code.ALREADY_SETTLED,
                f"the sum of round {round_.round} was attested as {aggregate.sum and aggregate.sum.digest}, "
                f"not {total.digest}",
            )
        return aggregate
    check_closed(round_)
    return aggregate.model_copy(
        update={"state": "attested", "sum": total, "summed_by": summed_by, "attested_at_ms": now_ms}
    )


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


def find_agreed(round_: Round, votes: Mapping[str, Vote]) -> str | None:
    """Return the model's digest that the round's threshold of members name, None as long as fewer do."""
    digests = sorted({vote.digest for vote in votes.values()})
    return next((digest for digest in digests if len(list_voters(votes, digest)) >= round_.threshold), None)


def check_readable(round_: Round, aggregate: Aggregate, votes: Mapping[str, Vote], digest: str) -> None:
    """Check that everybody may read a chunk of a closed round's sum.

    Args:
        round_: The round.
        aggregate: Its sum.
        votes: The votes of its committee.
        digest: Of the chunk.

    Raises:
        ProtocolError: BFL107 if the round is not closed, BFL502 if the sum is not attested, BFL304 if the chunk is none
            of it, BFL508 as long as fewer than the threshold of members name one model.
    """
    check_closed(round_)
    where = f"round {round_.round} of {round_.task}"
    if aggregate.sum is None:
        raise ProtocolError(Code.NOT_ATTESTED, f"the sum of {where} is not attested yet: attest it first")
    if digest not in aggregate.sum.chunks:
        raise ProtocolError(Code.CHUNK_MISMATCH, f"the chunk {digest} is none of the sum of {where}: send one of it")
    if find_agreed(round_, votes) is None:
        raise ProtocolError(
            Code.NOT_AGREED,
            f"the sum of {where} stays with the committee until {round_.threshold} of its members name the same model: "
            "vote first",
        )


def publish_round(
    round_: Round, progress: Progress, aggregate: Aggregate, votes: Mapping[str, Vote], digest: str, now_ms: int
) -> tuple[Round, Progress, Model] | None:
    """Return the records that publishing writes: the round published, the progress, the new model version.

    Whose updates count, and for how much, is the round's word, which a majority wrote, not that of the sum's record,
    which the committee alone can write.

    Args:
        round_: A closed round.
        progress: Where its task stands.
        aggregate: The round's attested sum.
        votes: The votes of the round's committee, the caller's included.
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


def abandon_round(round_: Round, votes: Mapping[str, Vote], now_ms: int) -> Round:
    """Return the round given up: failed, so that the next opens on the same base model.

    Args:
        round_: The round.
        votes: The votes of its committee.
        now_ms: The transaction's time.

    Raises:
        ProtocolError: BFL505 if it failed when it closed, BFL504 if it is published, BFL107 if it is open, BFL507
            before its publish deadline is over, BFL509 if the threshold of members name the same model: its sum may
            have been read, so the next round must not open on the same base.
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
    agreed = find_agreed(round_, votes)
    if agreed:
        raise ProtocolError(
            Code.AGREED,
            f"the committee has agreed on the model {agreed} of round {round_.round} of {round_.task}: publish it",
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
            f"round {round_.round} of {round_.task} failed ({round_.failure}), it has no sum: open the next round",
        )


def find_version_without(models: Sequence[Model], organisation: str) -> int:
    """Return the last version of a model in which no update of an organisation has a part.

    Args:
        models: All versions, ascending from 0.
        organisation: Its MSP id.
    """
    return next((one.version - 1 for one in models if organisation in one.accepted), models[-1].version)
