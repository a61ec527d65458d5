"""What one transaction of a verified chain was: its place, its name, whose word its time is, who signed it.

Every row that an auditor sees is about a record, and so about the transaction that wrote it last. `place` gives the
columns that all rows share:

    place(entry)["block"], place(entry)["transaction"]    # 17, "5f0c…"
    place(entry)["time_by"]                               # "stated by alpha"

A transaction's time is the word of its submitter. Peers endorse it only within 30 s of their own clock, so a majority
of endorsers vouches for that much; an ordering node's word, that of a configuration, has no such check.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from fabric_protos.common import common_pb2, configtx_pb2
from fabric_protos.msp import identities_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.transaction.envelope import CONFIG, ENDORSER_TRANSACTION, Transaction
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.moment import format_moment
from blockfl.protocol.records import Notice

_REMEMBERED: Final = 4096

Row = dict[str, object]
Kind = Literal["contract", "lifecycle", "configuration", "other", "unreadable"]
PLACE = ("block", "transaction", "time", "time_by", "signers")
"""The columns that every row has."""
LIFECYCLE = "_lifecycle"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One transaction.

    Attributes:
        block: Number of its block.
        index: Its place in the block, from 0.
        tx_id: Its id, hex; "" when it states none.
        kind: The contract's own, the lifecycle's (definitions), a configuration, or another.
        chaincode: The chaincode that it called; "" for a configuration.
        function: What it called there; "" for a configuration.
        submitter: MSP id of the organisation that sent it; of a configuration, the ordering node's; "" in block 0.
        stated_at_ms: Milliseconds since 1970, the submitter's word.
        signers: The organisations whose peers endorsed it; of a configuration those whose administrators signed it.
        code: Its validity code.
        reason: Why it is invalid, in words; "" when it is valid.
        request: Of a lifecycle transaction, its serialised argument.
        event: Name of the event that it announced; "" when it announced nothing.
        announced: What the contract's event holds; empty when it announced nothing.
        size_bytes: Of its envelope.
    """

    block: int
    index: int
    tx_id: str = ""
    kind: Kind
    chaincode: str = ""
    function: str = ""
    submitter: str = ""
    stated_at_ms: int = 0
    signers: tuple[str, ...] = ()
    code: str
    reason: str = ""
    request: bytes = b""
    event: str = ""
    announced: bytes = b""
    size_bytes: int

    @property
    def is_valid(self) -> bool:
        """Whether it changed anything."""
        return self.code == "VALID"

    @property
    def notice(self) -> Notice | None:
        """What the contract says happened; None when it announced nothing, or nothing that can be read."""
        try:
            return Notice.decode(self.announced) if self.announced else None
        except ProtocolError:
            return None


def read_entry(
    transaction: Transaction | None, *, block: int, index: int, code: str, reason: str, contract: str, size_bytes: int
) -> Entry:
    """Return what a transaction of a verified block was.

    Args:
        transaction: It, taken apart; None when it does not parse.
        block: Number of its block.
        index: Its place in the block.
        code: Its validity code.
        reason: Why it is invalid; "" when it is valid.
        contract: The name of the contract that the audit is about.
        size_bytes: Of its envelope.
    """
    if transaction is None:
        return Entry(block=block, index=index, kind="unreadable", code=code, reason=reason, size_bytes=size_bytes)
    signed = (
        _list_update_signers(transaction.data)
        if transaction.type == CONFIG
        else [one.endorser for one in transaction.endorsements]
    )
    kind = _kind(transaction, contract)
    return Entry(
        block=block,
        index=index,
        tx_id=transaction.tx_id,
        kind=kind,
        chaincode=transaction.chaincode,
        function=transaction.args[0].decode(errors="replace") if transaction.args else "",
        submitter=read_msp_id(transaction.creator),
        stated_at_ms=transaction.timestamp_ms,
        signers=tuple(sorted({read_msp_id(one) for one in signed} - {""})),
        code=code,
        reason=reason,
        request=transaction.args[1] if kind == "lifecycle" and len(transaction.args) > 1 else b"",
        event=transaction.event.name if transaction.event else "",
        announced=transaction.event.payload if transaction.event and kind == "contract" else b"",
        size_bytes=size_bytes,
    )


def place(entry: Entry) -> Row:
    """Return the columns that say where a row's transaction is, when it was by whose word, and who signed it."""
    return {
        "block": entry.block,
        "transaction": entry.tx_id,
        "time": format_time(entry.stated_at_ms),
        "time_by": f"stated by {entry.submitter}" if entry.submitter else "stated in the first block",
        "signers": list(entry.signers),
    }


def format_time(at_ms: int) -> str | None:
    """Return a time of the ledger as ISO 8601 in UTC, None for 0."""
    return format_moment(at_ms) if at_ms else None


@lru_cache(maxsize=_REMEMBERED)
def read_msp_id(identity: bytes) -> str:
    """Return the organisation that a serialised identity states; "" when it cannot be read."""
    try:
        return str(parse(identities_pb2.SerializedIdentity, identity).mspid)
    except DecodeError:
        return ""


def _kind(transaction: Transaction, contract: str) -> Kind:
    if transaction.type == CONFIG:
        return "configuration"
    if transaction.type != ENDORSER_TRANSACTION:
        return "other"
    if transaction.chaincode == contract:
        return "contract"
    return "lifecycle" if transaction.chaincode == LIFECYCLE else "other"


def _list_update_signers(data: bytes) -> list[bytes]:
    """Return the identities of those who signed the update that a configuration came from."""
    try:
        update = parse(configtx_pb2.ConfigEnvelope, data).last_update
        payload = parse(common_pb2.Payload, update.payload)
        signed = parse(configtx_pb2.ConfigUpdateEnvelope, payload.data).signatures
        return [parse(common_pb2.SignatureHeader, one.signature_header).creator for one in signed]
    except DecodeError:
        return []
