"""An institution's part in a dispute about a wrap of its update: it has the seed, and shows one ephemeral key."""

from blockfl.institution.outbox import Outbox
from blockfl.ledger.client import Ledger
from blockfl.protocol.catalogue import DISPUTE
from blockfl.protocol.claims import Dispute
from blockfl.protocol.dispute import choose_ephemeral_key
from blockfl.protocol.seal import SealPlace, derive_data_key


async def settle(ledger: Ledger, outbox: Outbox, task: str, number: int, member: str) -> Dispute:
    """Settle a committee member's claim about this organisation's update; return the record.

    Args:
        ledger: The institution's.
        outbox: Where its agent keeps the update until the round is over.
        task: The task.
        number: The round.
        member: Who claims that it cannot open its wrap.

    Raises:
        OutboxError: The update is not there any more, or damaged.
        LedgerError: There is no such claim, or the ledger cannot be asked.
        ProtocolError: BFL422, no wrap of the update is right.
    """
    organisation = ledger.organisation
    await ledger.read(DISPUTE.key(task, number, organisation, member))
    parcel = outbox.load(task, number)
    header = parcel.signed.header
    data_key = derive_data_key(parcel.read_seed(), SealPlace.of(header), header.payload_digest)
    key = choose_ephemeral_key(header, data_key, member, member)
    await ledger.settle_wrap(task, number, organisation, member, key)
    return await ledger.read(DISPUTE.key(task, number, organisation, member))
