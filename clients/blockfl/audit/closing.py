"""How a round closed, repeated from public records: who was accepted, rejected, left unjudged, or absent.

Nobody is left out of a sum unseen, and nobody is called an equivocator without two headers that it signed.
"""

from itertools import pairwise

from blockfl.audit.difference import describe_differences
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.protocol.assessment import Assessment
from blockfl.protocol.catalogue import ASSESSMENTS, CONSORTIUM, EQUIVOCATIONS, HEADER, MODEL, ROUND, VOTES, find_key
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.publication import find_agreed
from blockfl.protocol.records import Round, SignedHeader, Update
from blockfl.protocol.round import close_round
from blockfl.protocol.submission import check_header, verify_header_signature
from blockfl.protocol.task import Task

_LISTS = ("accepted", "rejected", "unjudged", "absent")


def verify_header(history: History, task: Task, round_: Round, signed: SignedHeader, where: str) -> None:
    """Verify that a header is one for its round, signed with the certificate that was enrolled then.

    Raises:
        VerificationError: It is not.
    """
    organisation = signed.header.organisation
    part = round_.participant(organisation)
    if part is None:
        raise VerificationError(f"{where}: it takes no part in the round")
    certificate = history.certificate(round_.task, organisation, part.certificate_digest)
    try:
        verify_header_signature(signed, certificate)
        check_header(signed.header, history.get(CONSORTIUM.key()), task, round_)
    except ProtocolError as error:
        raise VerificationError(f"{where}: {error}") from error


def verify_close(history: History, task: Task, round_: Round, updates: dict[str, Update]) -> None:
    """Verify that what a round froze when it closed follows from the verdicts.

    Args:
        history: The ledger.
        task: The task.
        round_: The round.
        updates: What was submitted, by organisation.

    Raises:
        VerificationError: Somebody is missing in a list, or in the wrong one; the round could not close like that; or
            it changed in what a close, a publication or giving it up leaves alone.
    """
    where = f"task {round_.task}, round {round_.round}"
    equivocators = _list_equivocators(history, task, round_, where)
    opened, *later = history.list_versions(ROUND.key(round_.task, round_.round))
    if not later:
        return
    closed = later[0]
    if closed.state == "open":
        raise VerificationError(f"{where}: it was opened a second time: {describe_differences(closed, opened)}")
    try:
        expected = close_round(
            opened,
            updates,
            equivocators,
            minimum_accepted=task.spec.minimum_accepted,
            now_ms=closed.closed_at_ms,
            aggregation=task.spec.aggregation,
            assessments=_list_assessments(history, opened, where),
            last_accepted=_find_last_accepted(history, task, opened),
        )
    except ProtocolError as error:
        raise VerificationError(f"{where}: it could not be closed: {error}") from error
    for name in _LISTS:
        said, made = getattr(closed, name), getattr(expected, name)
        if said != made:
            raise VerificationError(
                f"{where}: names as {name} {', '.join(said) or 'nobody'}; the verdicts make that "
                f"{', '.join(made) or 'nobody'}"
            )
    if (expected.state == "failed") != (closed.state == "failed"):
        raise VerificationError(
            f"{where}: it is {closed.state} with {len(closed.accepted)} accepted updates, the task needs "
            f"{task.spec.minimum_accepted}{', and a stable set' if task.spec.stable_set else ''}"
        )
    if closed != expected:
        raise VerificationError(
            f"{where}: what it closed with does not follow from its opening and the verdicts: "
            f"{describe_differences(closed, expected)}"
        )
    _verify_end(history, later, where)


def _find_last_accepted(history: History, task: Task, round_: Round) -> tuple[str, ...] | None:
    """Return whose updates are in the sum of the round's base model, where the task wants a stable set."""
    if not task.spec.stable_set or not round_.base_version:
        return None
    return history.get(MODEL.key(round_.task, round_.base_version)).accepted


def _verify_end(history: History, later: list[Round], where: str) -> None:
    """Verify that a closed round was published or given up at most once, which changes nothing else of it.

    A round on whose model the committee agreed is not given up: its sum may have been read.
    """
    for before, after in pairwise(later):
        if before.state != "closed":
            raise VerificationError(
                f"{where}: it was {before.state}, and was then changed: {describe_differences(after, before)}"
            )
        made = {"state": "published"} if after.state == "published" else {"state": "failed", "failure": "abandoned"}
        expected = before.model_copy(update=made)
        if after != expected:
            raise VerificationError(
                f"{where}: it was closed, and was then changed as no transaction does: "
                f"{describe_differences(after, expected)}"
            )
        votes = history.read_all(VOTES.below(after.task, after.round))
        agreed = find_agreed(after, {one.organisation: one for one in votes})
        if agreed and after.state == "failed":
            raise VerificationError(f"{where}: it was given up although the committee had agreed on the model {agreed}")


def _list_assessments(history: History, round_: Round, where: str) -> list[Assessment]:
    """Return what the round's assessors say of its updates, each written once, and by nobody else."""
    assessments = history.read_all(ASSESSMENTS.below(round_.task, round_.round))
    for one in assessments:
        mark = f"{where}, assessment of the update of {one.organisation} by {one.member}"
        if round_.effect is None or one.member not in round_.effect.assessors:
            raise VerificationError(f"{mark}: {one.member} is no assessor of the round")
        if history.count_writes(find_key(one)) != 1:
            raise VerificationError(f"{mark}: it was changed")
    return assessments


def _list_equivocators(history: History, task: Task, round_: Round, where: str) -> list[str]:
    """Return who signed two different headers, each proof verified."""
    proofs = history.read_all(EQUIVOCATIONS.below(round_.task, round_.round))
    for proof in proofs:
        mark = f"{where}, equivocation of {proof.organisation}"
        first = history.get(HEADER.key(proof.task, proof.round, proof.organisation)).header
        verify_header(history, task, round_, proof.second, mark)
        if proof.second.header.organisation != proof.organisation:
            raise VerificationError(f"{mark}: the second header is one of {proof.second.header.organisation}")
        if proof.first_digest != first.record_digest or proof.second.header == first:
            raise VerificationError(f"{mark}: it does not show two different headers")
    return [proof.organisation for proof in proofs]
