"""The contract's events, typed."""

from dataclasses import dataclass

from blockfl.protocol.records import Notice


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event of the contract: what happened in which transaction."""

    name: str
    notice: Notice
    block_number: int
    transaction_id: str
