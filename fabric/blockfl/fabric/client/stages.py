"""The stages of a transaction as values: endorsed, its status on the ledger, committed; and how long each may take."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from fabric_protos.peer import transaction_pb2

from blockfl.fabric.client.events import ChaincodeEvent


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long each kind of call may take, in seconds; `commit_s` counts anew each time a transaction is sent again.

    A stream of events or blocks may take for ever (None) unless told otherwise; its time includes reconnecting.
    """

    evaluate_s: float = 30.0
    endorse_s: float = 30.0
    submit_s: float = 10.0
    commit_s: float = 20.0
    events_s: float | None = None
    blocks_s: float | None = None
    filtered_blocks_s: float | None = None
    private_blocks_s: float | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and not value > 0:
                raise ValueError(f"expected {one.name} to be more than 0 seconds, got {value}")


@dataclass(frozen=True, kw_only=True)
class Endorsed:
    """An endorsed transaction, signed and ready to be sent, once or again.

    Attributes:
        transaction_id: its id.
        payload: what the contract returned.
        envelope: serialised common.Envelope.
        event: what it will announce when it turns out valid; the block's number is not known yet (-1).
    """

    transaction_id: str
    payload: bytes
    envelope: bytes = field(repr=False)
    event: ChaincodeEvent | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """What became of a transaction on the ledger."""

    transaction_id: str
    code: int
    code_name: str
    block_number: int

    @property
    def is_valid(self) -> bool:
        """Whether it changed the state."""
        return self.code == int(transaction_pb2.VALID)


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A transaction that is valid on the ledger.

    Attributes:
        payload: what the contract returned.
        transaction_id: its id.
        block_number: number of its block.
        event: what it announced.
    """

    payload: bytes
    transaction_id: str
    block_number: int
    event: ChaincodeEvent | None = None
