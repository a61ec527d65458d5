"""What makes a process a committee member's: its opening key is on the ledger."""

from collections.abc import Callable

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.catalogue import COMMITTEE_KEYS
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.records import Consortium


async def register_key(
    ledger: Ledger, opening_key: OpeningKey, consortium: Consortium, report: Callable[[str], None]
) -> None:
    """Register the member's opening key, unless it is registered.

    Raises:
        LedgerError: The organisation is not in the committee; or as the transaction does.
    """
    if ledger.organisation not in consortium.committee:
        raise LedgerError(
            f"{ledger.organisation} is not in the committee ({', '.join(consortium.committee)}); "
            "only its members run an aggregator"
        )
    public_key = opening_key.public_key().public_bytes_raw().hex()
    keys = {key.organisation: key.public_key for key in await ledger.read_all(COMMITTEE_KEYS.below())}
    if keys.get(ledger.organisation) != public_key:
        await ledger.register_committee_key(public_key)
        report("registered the opening key")
