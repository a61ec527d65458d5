"""One round's sum, checked by anyone: public records and the sum are all that it takes, no update and no key.

What the contract checked when the sum was published is checked again here, on what the ledger says now, by this
process; nobody's word is taken for it.
"""

import asyncio
from dataclasses import asdict, dataclass

from blockfl.audit.errors import VerificationError
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.evidence import fetch_evidence
from blockfl.ledger.transfer import fetch_blob
from blockfl.protocol.catalogue import AGGREGATE, CONSORTIUM, ENROLMENTS, HEADER, MODEL, ROUND, TASK
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.evidence import verify_round_sum
from blockfl.protocol.records import Aggregate, Blob, Round
from blockfl.protocol.submission import check_header, verify_header_signature
from blockfl.protocol.task import Task


@dataclass(frozen=True, kw_only=True)
class AggregateReport:
    """What was verified of a round.

    Attributes:
        task: The task.
        round: The round.
        accepted: Whose updates are in the sum.
        dimension: Number of elements.
        sum_digest: Digest of the sum.
        signed: Whose signature under the commitment was verified with the certificate enrolled now.
        renewed: Who has enrolled another certificate since; ``blockfl audit verify`` knows the old one.
    """

    task: str
    round: int
    accepted: tuple[str, ...]
    dimension: int
    sum_digest: str
    signed: tuple[str, ...]
    renewed: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the report for machines."""
        return {"verified": True, **asdict(self)}


async def check_aggregate(ledger: Ledger, name: str, number: int) -> AggregateReport:
    """Verify the sum of a round against the commitments of its accepted updates.

    Args:
        ledger: An identity of any organisation.
        name: The task.
        number: The round.

    Raises:
        VerificationError: The sum is not that of the accepted updates, or the records contradict each other.
        LedgerError: There is no such sum (yet), the task has no commitments, or the ledger cannot be read.
    """
    task, round_ = await ledger.read(TASK.key(name)), await ledger.read(ROUND.key(name, number))
    if not task.spec.is_committed:
        raise LedgerError(
            f"task {name} has no commitments: its sums are checked by the committee, which opens the updates again"
        )
    if round_.state not in ("closed", "published"):
        raise LedgerError(f"round {number} of {name} is {round_.state}: it has no sum")
    total = await _read_sum(ledger, round_, await ledger.read(AGGREGATE.key(name, number)))
    evidence = await fetch_evidence(ledger, name, number, round_.accepted)
    dimension = task.spec.manifest.dimension
    try:
        signed = await _verify_headers(ledger, task, round_)
        content = await fetch_blob(ledger, name, total)
        await asyncio.to_thread(verify_round_sum, content, dimension, evidence)
    except ProtocolError as error:
        raise VerificationError(f"task {name}, round {number}: {error}") from error
    return AggregateReport(
        task=name,
        round=number,
        accepted=round_.accepted,
        dimension=dimension,
        sum_digest=total.digest,
        signed=signed,
        renewed=tuple(one for one in round_.accepted if one not in signed),
    )


async def _read_sum(ledger: Ledger, round_: Round, aggregate: Aggregate) -> Blob:
    """Return the sum that the ledger names, the same in every record that names it."""
    where = f"task {round_.task}, round {round_.round}"
    if aggregate.sum is None:
        raise LedgerError(f"{where}: its sum is not attested yet, ask again later")
    if (aggregate.accepted, aggregate.divisor) != (round_.accepted, round_.divisor):
        raise VerificationError(f"{where}: the sum is not one of the updates that the round accepted")
    if round_.state == "published":
        model = await ledger.read(MODEL.key(round_.task, round_.base_version + 1))
        if (model.round, model.sum, model.accepted) != (round_.round, aggregate.sum, round_.accepted):
            raise VerificationError(f"{where}: the published version has another sum than the attested one")
    return aggregate.sum


async def _verify_headers(ledger: Ledger, task: Task, round_: Round) -> tuple[str, ...]:
    """Check that the accepted headers are of this round; return whose signature could be verified."""
    consortium = await ledger.read(CONSORTIUM.key())
    certificates = {one.organisation: one for one in await ledger.read_all(ENROLMENTS.below(round_.task))}
    signed = []
    for organisation in round_.accepted:
        header = await ledger.read(HEADER.key(round_.task, round_.round, organisation))
        check_header(header.header, consortium, task, round_)
        enrolled = certificates.get(organisation)
        if enrolled and enrolled.certificate_digest == header.header.certificate_digest:
            verify_header_signature(header, enrolled.certificate)
            signed.append(organisation)
    return tuple(signed)
