"""How a round closed, repeated from public records: who was accepted, rejected, left unjudged, or absent.

Nobody is left out of a sum unseen, and nobody is called an equivocator without two headers that it signed.
"""

from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.protocol import place
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.records import Consortium, Equivocation, Round, SignedHeader, Task, Update
from blockfl.protocol.round import close_round
from blockfl.protocol.submission import check_header, verify_header_signature

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
        check_header(signed.header, history.get(Consortium, place.CONSORTIUM), task, round_)
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
        VerificationError: Somebody is missing in a list, or in the wrong one; or the round could not close like that.
    """
    where = f"task {round_.task}, round {round_.round}"
    equivocators = _list_equivocators(history, task, round_, where)
    if round_.state == "open":
        _require_nothing_frozen(round_, where)
        return
    frozen = {"accepted": (), "rejected": (), "unjudged": (), "absent": (), "norms": None}
    before = round_.model_copy(update={"state": "open", "failure": "", "closed_at_ms": 0, "total_weight": 0, **frozen})
    terms = task.spec.minimum_accepted, round_.closed_at_ms, task.spec.aggregation
    try:
        expected = close_round(before, updates, equivocators, *terms)
    except ProtocolError as error:
        raise VerificationError(f"{where}: it could not be closed: {error}") from error
    for name in _LISTS:
        said, made = getattr(round_, name), getattr(expected, name)
        if said != made:
            raise VerificationError(
                f"{where}: names as {name} {', '.join(said) or 'nobody'}; the verdicts make that "
                f"{', '.join(made) or 'nobody'}"
            )
    if round_.total_weight != expected.total_weight:
        raise VerificationError(f"{where}: total weight {round_.total_weight} is not that of the accepted updates")
    if (expected.state == "failed") != (round_.failure == "too few accepted"):
        raise VerificationError(
            f"{where}: it is {round_.state} with {len(round_.accepted)} accepted updates, the task needs "
            f"{task.spec.minimum_accepted}"
        )


def _require_nothing_frozen(round_: Round, where: str) -> None:
    for name in _LISTS:
        if getattr(round_, name):
            raise VerificationError(f"{where}: it is open and names as {name} {', '.join(getattr(round_, name))}")
    if round_.total_weight:
        raise VerificationError(f"{where}: total weight {round_.total_weight} is not that of the accepted updates")


def _list_equivocators(history: History, task: Task, round_: Round, where: str) -> list[str]:
    """Return who signed two different headers, each proof verified."""
    proofs = history.below(Equivocation, f"equivocation/{round_.task}/{round_.round:06d}")
    for proof in proofs:
        mark = f"{where}, equivocation of {proof.organisation}"
        first = history.get(SignedHeader, place.header_key(proof.task, proof.round, proof.organisation)).header
        verify_header(history, task, round_, proof.second, mark)
        if proof.second.header.organisation != proof.organisation:
            raise VerificationError(f"{mark}: the second header is one of {proof.second.header.organisation}")
        if proof.first_digest != first.record_digest or proof.second.header == first:
            raise VerificationError(f"{mark}: it does not show two different headers")
    return [proof.organisation for proof in proofs]
