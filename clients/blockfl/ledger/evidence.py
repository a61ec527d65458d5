"""What the ledger holds of a round's accepted updates: enough for anyone to verify the sum, and nothing secret."""

from collections.abc import Sequence

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.evidence import Evidence


async def fetch_evidence(ledger: Ledger, task: str, number: int, accepted: Sequence[str]) -> list[Evidence]:
    """Return headers and commitments of the accepted updates, in their order; one read, however many there are.

    Raises:
        LedgerError: As the read does; or the evidence is not that of exactly these updates.
    """
    found = await ledger.read_evidence(task, number)
    signed = [one.header.organisation for one in found.headers]
    committed = [one.organisation for one in found.commitments]
    if not signed == committed == list(accepted):
        raise LedgerError(
            f"round {number} of {task}: expected headers and commitments of the accepted updates, of "
            f"{', '.join(accepted)}; got headers of {', '.join(signed) or 'none'} and commitments of "
            f"{', '.join(committed) or 'none'}"
        )
    return [
        Evidence(header=one.header, commitment=commitment)
        for one, commitment in zip(found.headers, found.commitments, strict=True)
    ]
