"""The contract's events, typed."""

from dataclasses import dataclass
from typing import Self

from blockfl.fabric.client.events import ChaincodeEvent
from blockfl.protocol.records import Notice


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event of the contract: what happened in which transaction."""

    name: str
    notice: Notice
    block_number: int
    transaction_id: str

    @classmethod
    def of(cls, event: ChaincodeEvent) -> Self:
        """Return what an event of the contract's chaincode says."""
        return cls(
            name=event.name,
            notice=Notice.decode(event.payload),
            block_number=event.block_number,
            transaction_id=event.transaction_id,
        )
