"""Transactions that one member can make and that peers do not survive, or do not get past; one for each kind.

Each comes with what follows it in the block, where peers stop only then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fabric_protos.peer import chaincode_pb2, proposal_pb2

from blockfl.fabric.transaction.rwset import (
    VALIDATION_PARAMETER,
    CollectionReadWriteSet,
    HashedMetadataWrite,
    HashedWrite,
    MetadataWrite,
    NamespaceReadWriteSet,
    Write,
)
from support.broken_transactions import clearing, setting, unparseable
from support.scratch_ledger import Change, ScratchLedger, digest, key_policy

_INVOCATION = chaincode_pb2.ChaincodeInvocationSpec(
    chaincode_spec=chaincode_pb2.ChaincodeSpec(input=chaincode_pb2.ChaincodeInput(args=[b"Nothing"]))
)
_CALL = proposal_pb2.ChaincodeProposalPayload(input=_INVOCATION.SerializeToString()).SerializeToString()


def craft(ledger: ScratchLedger, namespaces: Sequence[NamespaceReadWriteSet], **settings: Any) -> bytes:
    """Make a transaction that calls something; settings are those of `ScratchLedger.craft`."""
    return ledger.craft(namespaces, **{"proposal_payload": lambda _: _CALL, **settings})


def craft_block(ledger: ScratchLedger, kind: str, names: tuple[str, str, str], **settings: Any) -> list[bytes]:
    """The transactions of a kind, as they must stand in one block.

    Args:
        ledger: makes them.
        kind: of `STOPPING`.
        names: a contract, a second one, and the member.
        settings: those of `ScratchLedger.craft`.
    """
    one = STOPPING[kind]
    block = [craft(ledger, one.namespaces(*names), chaincode=names[0], **settings, **one.changes)]
    if one.precedes is not None:
        block.insert(0, craft(ledger, one.precedes(*names), chaincode=names[0], **settings))
    if one.follows is not None:
        follows = one.follows(*names)
        block.append(craft(ledger, follows, chaincode=follows[0].namespace, **settings))
    return block


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """A kind.

    Attributes:
        reason: part of what is said when it is refused.
        namespaces: its read/write set, for a contract, a second one, and a member.
        changes: of its parts.
        precedes: the read/write set of the transaction before it.
        follows: of the one after it.
        races: whether a peer stops only when its threads meet in one order; in the other it commits the block.
    """

    reason: str
    namespaces: Callable[[str, str, str], list[NamespaceReadWriteSet]]
    changes: Mapping[str, Change] = field(default_factory=dict)
    precedes: Callable[[str, str, str], list[NamespaceReadWriteSet]] | None = None
    follows: Callable[[str, str, str], list[NamespaceReadWriteSet]] | None = None
    races: bool = False


def _policy(member: str) -> tuple[tuple[str, bytes], ...]:
    return ((VALIDATION_PARAMETER, key_policy(1, member)),)


def _ruling(chaincode: str, _: str, member: str) -> list[NamespaceReadWriteSet]:
    metadata = MetadataWrite(key="k", entries=_policy(member))
    return [
        NamespaceReadWriteSet(namespace=chaincode, writes=(Write(key="k", value=b"v"),), metadata_writes=(metadata,))
    ]


def _writing(chaincode: str, _: str, __: str) -> list[NamespaceReadWriteSet]:
    return [NamespaceReadWriteSet(namespace=chaincode, writes=(Write(key="k", value=b"v"),))]


def _writing_elsewhere(_: str, other: str, member: str) -> list[NamespaceReadWriteSet]:
    return _writing(other, other, member)


def _ruling_both(chaincode: str, other: str, member: str) -> list[NamespaceReadWriteSet]:
    return [*_ruling(chaincode, other, member), *_ruling(other, chaincode, member)]


def _writing_nowhere(chaincode: str, _: str, __: str) -> list[NamespaceReadWriteSet]:
    hashed = HashedWrite(key_hash=digest("k"), value_hash=digest("v"))
    return _own(chaincode, CollectionReadWriteSet(collection="nowhere", writes=(hashed,), private_hash=digest("set")))


def _own(chaincode: str, part: CollectionReadWriteSet) -> list[NamespaceReadWriteSet]:
    return [NamespaceReadWriteSet(namespace=chaincode, collections=(part,))]


def _deleting_own(chaincode: str, _: str, member: str) -> list[NamespaceReadWriteSet]:
    hashed = HashedWrite(key_hash=digest("k"), is_delete=True)
    return _own(chaincode, CollectionReadWriteSet(collection=f"_implicit_org_{member}", writes=(hashed,)))


def _ruling_own(chaincode: str, _: str, member: str) -> list[NamespaceReadWriteSet]:
    hashed = HashedMetadataWrite(key_hash=digest("k"), entries=_policy(member))
    return _own(chaincode, CollectionReadWriteSet(collection=f"_implicit_org_{member}", metadata_writes=(hashed,)))


def _writing_own_twice(chaincode: str, _: str, member: str) -> list[NamespaceReadWriteSet]:
    hashed = HashedWrite(key_hash=digest("k"), value_hash=digest("v"))
    return _own(chaincode, CollectionReadWriteSet(collection=f"_implicit_org_{member}", writes=(hashed, hashed)))


STOPPING: Final[Mapping[str, Stopping]] = {
    "a collection that nobody has defined": Stopping(
        reason="there is no collection 'nowhere'", namespaces=_writing_nowhere
    ),
    "no endorsed action": Stopping(
        reason="it holds no endorsed action", namespaces=_writing, changes={"endorsed": clearing("action")}
    ),
    "an action that does not parse, and a write": Stopping(
        reason="does not parse", namespaces=_writing, changes={"endorsed": unparseable}, follows=_writing
    ),
    "a policy of a key under another transaction's id, and a write": Stopping(
        reason="SHA-256 of nonce and creator",
        namespaces=_ruling,
        changes={"channel_header": setting("tx_id", "ab" * 32)},
        follows=_writing,
    ),
    "a policy of a key by a chaincode without a version, and a write": Stopping(
        reason="names no chaincode version",
        namespaces=_ruling,
        changes={"action": lambda action: setattr(action.chaincode_id, "version", "")},
        follows=_writing,
    ),
    "policies of keys of two chaincodes, and a write": Stopping(
        reason="writes to other chaincodes", namespaces=_ruling_both, follows=_writing_elsewhere, races=True
    ),
    "a policy of a private key without its value": Stopping(
        reason="without its value", namespaces=_ruling_own, precedes=_deleting_own
    ),
    "a private key written twice": Stopping(
        reason="more than once", namespaces=_writing_own_twice, precedes=_deleting_own
    ),
}
