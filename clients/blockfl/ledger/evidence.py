"""What the ledger holds of a round's accepted updates: enough for anyone to verify the sum, and nothing secret."""

from collections.abc import Sequence

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.catalogue import COMMITMENTS, HEADERS
from blockfl.protocol.evidence import Evidence


async def fetch_evidence(ledger: Ledger, task: str, number: int, accepted: Sequence[str]) -> list[Evidence]:
    """Return headers and commitments of the accepted updates, in their order; two reads, however many there are.

    Raises:
        LedgerError: As the reads do; or one of the records is not there.
    """
    headers = {one.header.organisation: one.header for one in await ledger.read_all(HEADERS.below(task, number))}
    commitments = {one.organisation: one for one in await ledger.read_all(COMMITMENTS.below(task, number))}
    missing = [one for one in accepted if one not in headers or one not in commitments]
    if missing:
        raise LedgerError(
            f"round {number} of {task}: the ledger has no header or no commitment of {', '.join(missing)}, "
            "whose updates the round accepted"
        )
    return [Evidence(header=headers[one], commitment=commitments[one]) for one in accepted]
