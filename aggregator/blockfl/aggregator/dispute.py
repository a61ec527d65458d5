"""A committee member's part in a dispute about a wrap: claiming that its own is wrong, settling another's claim."""

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.catalogue import DISPUTE, HEADER
from blockfl.protocol.claims import Dispute
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.dispute import choose_ephemeral_key
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.seal import recover_data_key, unwrap_data_key


async def claim(ledger: Ledger, opening_key: OpeningKey, task: str, number: int, organisation: str) -> str:
    """Claim that an update's wrap for this member is wrong, once it was found to be; return what is wrong.

    Raises:
        LedgerError: It is right, so that there is nothing to claim, or the ledger cannot be asked.
        ProtocolError: BFL119, the update is sealed to another opening key.
    """
    header = (await ledger.read(HEADER.key(task, number, organisation))).header
    try:
        unwrap_data_key(header, ledger.organisation, opening_key)
    except ProtocolError as error:
        if error.code is Code.OPENING_KEY:
            raise
        await ledger.claim_wrap(task, number, organisation)
        return str(error)
    raise LedgerError(
        f"round {number} of {task}: the wraps of {organisation}'s update are right, as the opening key of "
        f"{ledger.organisation} shows: there is nothing to claim"
    )


async def settle(
    ledger: Ledger, opening_key: OpeningKey, task: str, number: int, organisation: str, member: str
) -> Dispute:
    """Settle a member's claim with what the own wrap of the update holds; return the record.

    Raises:
        ProtocolError: BFL119, BFL412 or BFL422: this member can show nothing.
        LedgerError: There is no such claim, or the ledger cannot be asked.
    """
    await ledger.read(DISPUTE.key(task, number, organisation, member))
    header = (await ledger.read(HEADER.key(task, number, organisation))).header
    data_key = recover_data_key(header, ledger.organisation, opening_key)
    key = choose_ephemeral_key(header, data_key, member, ledger.organisation)
    await ledger.settle_wrap(task, number, organisation, member, key)
    return await ledger.read(DISPUTE.key(task, number, organisation, member))
