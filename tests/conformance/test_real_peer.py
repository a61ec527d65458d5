"""A real Fabric peer says the same of our blocks: every code, and by the commit hash every change of the state."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.changes import add_organisation, change_batch, remove_organisation, revoke_certificates
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.update import build_update_envelope, compute_update, sign_update
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.embedded.ordering.reconfiguration import build_config_transaction
from blockfl.fabric.errors import EvaluateError
from blockfl.fabric.transaction.rwset import (
    CollectionReadWriteSet,
    HashedRead,
    HashedWrite,
    MetadataWrite,
    NamespaceReadWriteSet,
    Write,
    encode_metadata,
)
from support.broken_transactions import BROKEN
from support.config_updates import MAJORITY, admin, config_transaction, update_config
from support.key_operations import OPERATIONS, POLICY
from support.organisation import make_organisation
from support.random_transactions import RandomTransactions
from support.real_peer import CHANNEL, RealPeer, real_peer
from support.scratch_ledger import NAMES, definition_values, digest, organisations, own_policy, writes

# A block with one of the first two is refused as a whole; without a channel peers look at their own organisation;
# what ordering nodes never let through, and peers do not expect.
LEFT_OUT = {
    "the envelope does not parse",
    "the envelope is not signed",
    "the channel is not named",
    "the payload has no header",
    "the action holds no endorsed action",
}


@pytest.fixture
def binaries() -> Path:
    directory = os.environ.get("FABRIC_BIN")
    if not directory or not (Path(directory) / "peer").is_file():
        pytest.skip("FABRIC_BIN does not name a directory with Fabric's peer")
    return Path(directory)


@pytest.fixture
async def peer(binaries: Path, tmp_path: Path) -> AsyncIterator[RealPeer]:
    async with real_peer(binaries, tmp_path) as running:
        app = definition_values(
            "app", collections={"sealed": own_policy(2, "alpha", "beta"), "notes": b""}, block_to_live=3
        )
        for values in (app, definition_values("other")):
            define = running.craft([writes("_lifecycle", **values)], chaincode="_lifecycle")
            assert (await running.compare(define)).codes == (transaction_pb2.VALID,)
        yield running


async def test_a_peer_gives_broken_transactions_the_same_codes(peer: RealPeer) -> None:
    for what, (code, changes) in BROKEN.items():
        if what not in LEFT_OUT:
            validation = await peer.compare(peer.craft([writes("app", key=b"value")], **changes))
            assert transaction_pb2.TxValidationCode.Name(validation.codes[0]) == code, what


async def test_a_peer_makes_the_same_of_operations_on_one_key(peer: RealPeer) -> None:
    names = {f"k{index}": what for index, what in enumerate(OPERATIONS)}
    old = NamespaceReadWriteSet(
        namespace="app",
        writes=tuple(Write(key=key, value=b"old") for key in names),
        metadata_writes=tuple(MetadataWrite(key=key, entries=POLICY) for key in names),
    )
    await peer.compare(peer.craft([old]))
    for prefix in ("", "missing-"):
        operations = [peer.craft([rename(what, prefix + key)], endorsers=NAMES) for key, what in names.items()]
        assert set((await peer.compare(*operations)).codes) == {transaction_pb2.VALID}
    for key, what in names.items():
        value, metadata = OPERATIONS[what][1]
        stored = peer.state.get("app", key)
        assert (None if stored is None else stored.value) == value, what
        if stored is not None:
            assert stored.metadata == metadata, what
    # Metadata are not in the commit hash: who may write the key next shows them.
    ruled = encode_metadata(POLICY)
    again = await peer.compare(*(peer.craft([writes("app", **{key: b"next"})], endorsers=["delta"]) for key in names))
    for code, what in zip(again.codes, OPERATIONS, strict=True):
        assert (code == transaction_pb2.VALID) == (OPERATIONS[what][1][1] == ruled), what


def rename(what: str, key: str) -> NamespaceReadWriteSet:
    operations, _ = OPERATIONS[what]
    return NamespaceReadWriteSet(
        namespace="app",
        writes=tuple(Write(key=key, value=o.value, is_delete=o.is_delete) for o in operations if isinstance(o, Write)),
        metadata_writes=tuple(
            MetadataWrite(key=key, entries=o.entries) for o in operations if isinstance(o, MetadataWrite)
        ),
    )


async def test_a_peer_takes_our_configuration_updates(peer: RealPeer) -> None:
    before = peer.config.sequence
    validation = await peer.compare(config_transaction(peer.config, update_config(peer.config)))
    assert validation.config is not None
    assert validation.config.sequence == before + 1


async def test_a_peer_takes_what_the_embedded_node_makes_of_updates_and_judges_alike_afterwards(
    peer: RealPeer,
) -> None:
    epsilon, gamma = make_organisation("epsilon"), organisations()["gamma"]
    thief = gamma.signer("thief")
    crl = gamma.signing.revoke([thief.identity.certificate_pem])
    newcomer = epsilon.signer("peer0", "peer")
    steps: list[tuple[Callable[[ChannelConfig], Any], Sequence[str]]] = [
        (lambda config: add_organisation(config, epsilon.spec(anchor=7999)), MAJORITY),
        (lambda config: revoke_certificates(config, "gamma", crl), ["gamma"]),
        (lambda config: change_batch(config, replace(config.batch, max_message_count=7)), MAJORITY),
        (lambda config: remove_organisation(config, "beta"), MAJORITY),
    ]
    seen = []
    for change, signers in steps:
        update = compute_update(peer.config.config, change(peer.config), peer.config.channel_id)
        signatures = [sign_update(update, admin(name)) for name in signers]
        envelope = build_update_envelope(update, signatures, admin("alpha"))
        transaction = build_config_transaction(envelope, peer.config, peer.orderer)
        assert (await peer.compare(transaction)).codes == (transaction_pb2.VALID,)
        probes = (
            peer.craft([writes("app", by_thief=b"v")], creator=thief),
            peer.craft([writes("app", by_two=b"v")], endorsers=["alpha", "gamma"]),
            peer.craft([writes("app", with_epsilon=b"v")], endorsers=["alpha", "gamma", newcomer]),
            peer.craft([writes("app", with_beta=b"v")], endorsers=["alpha", "gamma", "beta"]),
        )
        seen.append([transaction_pb2.TxValidationCode.Name(code) for code in (await peer.compare(*probes)).codes])
    creator, policy = "BAD_CREATOR_SIGNATURE", "ENDORSEMENT_POLICY_FAILURE"
    assert seen == [
        ["VALID", policy, "VALID", "VALID"],
        [creator, policy, "VALID", "VALID"],
        [creator, policy, "VALID", "VALID"],
        [creator, policy, "VALID", policy],
    ]


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_peer_agrees_on_random_transactions(peer: RealPeer, seed: int) -> None:
    transactions = RandomTransactions(peer, seed)
    seen: set[int] = set()
    for _ in range(60):
        seen.update((await peer.compare(*transactions.block())).codes)
    assert seen == {
        transaction_pb2.VALID,
        transaction_pb2.ENDORSEMENT_POLICY_FAILURE,
        transaction_pb2.MVCC_READ_CONFLICT,
        transaction_pb2.PHANTOM_READ_CONFLICT,
    }


async def test_a_peer_forgets_private_keys_at_the_same_block(peer: RealPeer) -> None:
    write = HashedWrite(key_hash=digest("k"), value_hash=digest("value"))
    collection = CollectionReadWriteSet(collection="notes", writes=(write,))
    await peer.compare(peer.craft([NamespaceReadWriteSet(namespace="app", collections=(collection,))]))
    written = peer.state.get_hash("app", "notes", digest("k"))
    assert written is not None
    codes = []
    for _ in range(6):
        hashed = HashedRead(key_hash=digest("k"), version=written.version)
        reads = CollectionReadWriteSet(collection="notes", reads=(hashed,))
        read = peer.craft([NamespaceReadWriteSet(namespace="app", collections=(reads,))])
        codes.append((await peer.compare(read)).codes[0])
    assert codes == [transaction_pb2.VALID] * 4 + [transaction_pb2.MVCC_READ_CONFLICT] * 2


async def test_calls_wait_for_a_place_at_a_peer_that_runs_as_many_as_it_takes(binaries: Path, tmp_path: Path) -> None:
    one_at_a_time = {"CORE_PEER_LIMITS_CONCURRENCY_GATEWAYSERVICE": "1"}
    asker = organisations()["delta"].signer("asker")
    async with real_peer(binaries, tmp_path, one_at_a_time) as peer, Gateway(peer.endpoint, asker, CHANNEL) as gateway:

        async def ask(count: int, **options: Any) -> list[bytes | BaseException]:
            calls = [gateway.evaluate("qscc", "GetChainInfo", CHANNEL, **options) for _ in range(count)]
            return await asyncio.gather(*calls, return_exceptions=True)

        refused = [one for one in await ask(32, retries=0) if isinstance(one, EvaluateError)]
        assert refused
        assert all("exceeding concurrency limit (1)" in str(one) for one in refused)
        assert [one for one in await ask(32) if not isinstance(one, bytes)] == []
