"""What no ordering node should order: each kind that stops peers is refused, and nothing that they need is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fabric_protos.common import common_pb2
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.block import decode_block, decode_metadata
from blockfl.fabric.channel.changes import change_batch
from blockfl.fabric.channel.config import is_config_block
from blockfl.fabric.channel.update import build_update_envelope, compute_update, sign_update
from blockfl.fabric.errors import BlockError
from blockfl.fabric.transaction.rwset import (
    VALIDATION_PARAMETER,
    CollectionReadWriteSet,
    HashedMetadataWrite,
    HashedWrite,
    MetadataWrite,
    NamespaceReadWriteSet,
    Write,
)
from blockfl.fabric.validate import SignatureCache
from blockfl.fabric.validate.orderable import (
    Orderable,
    SetReference,
    UnknownCollection,
    read_orderable,
    require_collections,
    require_independent,
    require_new,
)
from support.config_updates import admin
from support.replay import replayed
from support.scratch_ledger import ScratchLedger, client, digest, key_policy, scratch_ledger, writes
from support.stopping import STOPPING, craft

KNOWN = {("app", "sealed"), ("app", "notes"), ("app", "_implicit_org_alpha")}


@pytest.fixture
def ledger() -> ScratchLedger:
    return scratch_ledger()


def read(ledger: ScratchLedger, envelope: bytes) -> Orderable:
    orderable = read_orderable(envelope, ledger.config, SignatureCache())
    require_collections(orderable, lambda *place: place in KNOWN)
    require_independent(orderable)
    return orderable


@pytest.mark.parametrize("kind", STOPPING)
def test_what_stops_peers_is_refused_with_a_reason(ledger: ScratchLedger, kind: str) -> None:
    one = STOPPING[kind]
    envelope = craft(ledger, one.namespaces("app", "other", "alpha"), endorsers=["alpha"], **one.changes)
    with pytest.raises(BlockError, match=one.reason) as refused:
        read(ledger, envelope)
    assert str(refused.value).startswith("the transaction was not ordered: ")


@pytest.mark.parametrize("kind", [kind for kind, one in STOPPING.items() if one.follows or one.precedes])
def test_what_stands_beside_it_alone_is_taken(ledger: ScratchLedger, kind: str) -> None:
    one = STOPPING[kind]
    make = one.follows or one.precedes
    assert make is not None
    assert not read(ledger, craft(ledger, make("app", "other", "alpha"))).changes_policies


def test_a_policy_together_with_its_value_is_taken(ledger: ScratchLedger) -> None:
    entries = ((VALIDATION_PARAMETER, key_policy(1, "alpha")),)
    part = CollectionReadWriteSet(
        collection="sealed",
        writes=(HashedWrite(key_hash=digest("p"), value_hash=digest("v")),),
        metadata_writes=(HashedMetadataWrite(key_hash=digest("p"), entries=entries),),
        private_hash=digest("set"),
    )
    namespace = NamespaceReadWriteSet(
        namespace="app",
        writes=(Write(key="k", value=b"v"),),
        metadata_writes=(MetadataWrite(key="k", entries=entries),),
        collections=(part,),
    )
    orderable = read(ledger, craft(ledger, [namespace]))
    assert orderable.changes_policies
    assert orderable.references == (SetReference(namespace="app", collection="sealed", digest=digest("set")),)
    assert orderable.transaction_id


def test_a_public_policy_may_change_alone(ledger: ScratchLedger) -> None:
    """Only a majority, or those whom the key's policy names, can do so: nobody can alone."""
    metadata = MetadataWrite(key="k", entries=((VALIDATION_PARAMETER, key_policy(1, "alpha")),))
    envelope = craft(ledger, [NamespaceReadWriteSet(namespace="app", metadata_writes=(metadata,))])
    assert read(ledger, envelope).changes_policies


def test_what_changes_policies_is_ordered_once(ledger: ScratchLedger) -> None:
    metadata = MetadataWrite(key="k", entries=((VALIDATION_PARAMETER, key_policy(1, "alpha")),))
    changing = read(ledger, craft(ledger, [NamespaceReadWriteSet(namespace="app", metadata_writes=(metadata,))]))
    require_new(changing, False)
    with pytest.raises(BlockError, match="request already processed"):
        require_new(changing, True)
    require_new(read(ledger, craft(ledger, [writes("app", k=b"v")])), True)


def test_a_collection_that_is_not_there_is_told_apart(ledger: ScratchLedger) -> None:
    envelope = craft(ledger, STOPPING["a collection that nobody has defined"].namespaces("app", "other", "alpha"))
    with pytest.raises(UnknownCollection):
        read(ledger, envelope)


def test_a_configuration_update_is_taken(ledger: ScratchLedger) -> None:
    update = compute_update(
        ledger.config.config,
        change_batch(ledger.config, replace(ledger.config.batch, max_message_count=7)),
        ledger.config.channel_id,
    )
    envelope = build_update_envelope(update, [sign_update(update, admin("alpha"))], admin("alpha"))
    assert read(ledger, envelope) == Orderable(is_update=True)


def test_an_envelope_with_more_than_its_fields_is_refused(ledger: ScratchLedger) -> None:
    envelope = craft(ledger, [writes("app", k=b"v")])
    assert not read(ledger, envelope).is_update
    with pytest.raises(BlockError, match="not canonically encoded"):
        read(ledger, envelope + b"\x1a\x01x")
    parsed = common_pb2.Envelope.FromString(envelope)
    with pytest.raises(BlockError, match="lacks payload or signature"):
        read(ledger, common_pb2.Envelope(payload=parsed.payload).SerializeToString())


def test_a_forged_policy_change_is_refused(ledger: ScratchLedger) -> None:
    metadata = MetadataWrite(key="k", entries=((VALIDATION_PARAMETER, key_policy(1, "alpha")),))
    envelope = craft(
        ledger,
        [NamespaceReadWriteSet(namespace="app", metadata_writes=(metadata,))],
        envelope=lambda one: setattr(one, "signature", client("beta").sign(one.payload)),
    )
    with pytest.raises(BlockError, match="changes keys' policies and is not in order: the creator"):
        read(ledger, envelope)


def test_everything_that_real_peers_found_valid_is_taken() -> None:
    """A whole recorded ledger: of two shims, with private data, policies of keys, and configurations that change."""
    valid, leaning = 0, set()
    for step in replayed().steps:
        block = decode_block(step.encoded)
        for envelope, code in zip(block.data.data, decode_metadata(block).filter, strict=True):
            if code == transaction_pb2.VALID and not is_config_block(block):
                orderable = read_orderable(envelope, step.config, SignatureCache())
                valid += 1
                leaning.add(orderable.leans)
    assert valid > 100
    assert leaning == {""}
