"""The reference: a ledger that real Fabric 3.1.5 peers wrote gives the same codes, state and hashes here."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from fabric_protos.common import common_pb2

from blockfl.fabric.channel.block import (
    decode_block,
    decode_metadata,
    encode_block,
    header_bytes,
    header_hash,
    verify_block,
    verify_genesis,
)
from blockfl.fabric.errors import FabricError
from blockfl.fabric.transaction.code import code_name
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.transaction.rwset import (
    decode_metadata as decode_entries,
)
from blockfl.fabric.transaction.rwset import decode_read_write_set, hash_key
from blockfl.fabric.validate import signatures as signature_module
from support.read_write_sets import (
    decode_private_write_set,
    encode_private_write_set,
    encode_read_write_set,
    hash_private_write_set,
)
from support.recording import recorded_block_bytes, recorded_json
from support.replay import Step, replayed

EXPECTED = recorded_json("expected")
STATE = recorded_json("state")
FLIPS = 6000


def expected_transactions() -> list[dict[str, Any]]:
    transactions: list[dict[str, Any]] = EXPECTED["transactions"]
    return transactions


def test_every_transaction_gets_the_code_that_real_peers_gave_it() -> None:
    expected = {(t["block"], t["index"]): (t["code"], t["note"]) for t in expected_transactions()}
    found = {
        (step.number, index): (code_name(code), expected[step.number, index][1])
        for step in replayed().steps
        for index, code in enumerate(step.validation.codes)
    }
    assert found == expected
    assert len(found) == 216


@pytest.mark.parametrize("code", sorted({t["code"] for t in expected_transactions()}))
def test_each_code_is_given_where_it_was_recorded_and_nowhere_else(code: str) -> None:
    expected = [(t["block"], t["index"]) for t in expected_transactions() if t["code"] == code]
    found = [
        (step.number, index)
        for step in replayed().steps
        for index, given in enumerate(step.validation.codes)
        if code_name(given) == code
    ]
    assert found == expected


def test_the_recording_holds_fifteen_different_codes() -> None:
    assert len(Counter(t["code"] for t in expected_transactions())) == 15


def test_every_invalid_transaction_comes_with_a_reason_and_no_valid_one_does() -> None:
    for step in replayed().steps:
        for code, reason in zip(step.validation.codes, step.validation.reasons, strict=True):
            assert bool(reason) == (code != 0)


def test_every_block_states_the_filter_and_commit_hash_that_are_derived_anew() -> None:
    for step in replayed().steps:
        metadata = decode_metadata(decode_block(step.encoded))
        assert metadata.filter == step.validation.filter
        assert metadata.commit_hash == step.validation.commit_hash(step.previous_commit_hash)
    assert replayed().last_commit_hash.hex() == EXPECTED["last_commit_hash"]


def test_every_transaction_is_listed_under_the_id_that_its_header_states() -> None:
    expected = [t["tx_id"] for t in expected_transactions()]
    found = [tx_id for step in replayed().steps for tx_id in step.validation.tx_ids]
    assert [tx_id for tx_id, stated in zip(found, expected, strict=True) if stated] == [t for t in expected if t]


def test_the_final_public_state_is_that_of_a_peers_snapshot() -> None:
    state = replayed().state
    found = {
        namespace: {
            key: with_metadata({"value": value.value.hex()}, value) for key, value in state.range(namespace, "", "")
        }
        for namespace in state.namespaces()
        if namespace
    }
    assert found == STATE["public"]


def test_the_final_hashed_state_is_that_of_a_peers_snapshot() -> None:
    state = replayed().state
    found: dict[str, dict[str, Any]] = {}
    for namespace, collection in state.collections():
        found.setdefault(namespace, {})[collection] = {
            key_hash.hex(): with_metadata({"value_hash": value.value_hash.hex()}, value)
            for key_hash, value in state.hashes(namespace, collection)
        }
    assert found == STATE["private_hashed"]


def with_metadata(entry: dict[str, Any], value: Any) -> dict[str, Any]:
    entry["version"] = list(value.version)
    if value.metadata:
        entry["metadata"] = {name: content.hex() for name, content in decode_entries(value.metadata).items()}
    return entry


def test_every_block_follows_the_one_before_and_carries_the_signatures_of_a_quorum() -> None:
    for step in replayed().steps[1:]:
        verify_block(decode_block(step.encoded), step.config, previous_hash=step.previous_hash, number=step.number)
        assert len(decode_metadata(decode_block(step.encoded)).signatures) >= 3
    verify_genesis(decode_block(replayed().steps[0].encoded))
    assert replayed().last_hash.hex() == EXPECTED["last_block_hash"]


def test_every_block_is_encoded_to_the_same_bytes_again() -> None:
    for encoded in recorded_block_bytes():
        assert encode_block(decode_block(encoded)) == encoded


def test_the_header_of_the_last_block_hashes_to_what_the_peers_snapshot_says() -> None:
    block = decode_block(recorded_block_bytes()[-1])
    assert header_hash(block.header).hex() == STATE["snapshot"]["last_block_hash"]
    assert block.header.previous_hash.hex() == STATE["snapshot"]["previous_block_hash"]


def test_every_simulated_read_write_set_is_encoded_to_the_same_bytes_again() -> None:
    calls = recorded_json("rwsets")["calls"]
    for call in calls:
        results = bytes.fromhex(call["results"])
        assert encode_read_write_set(decode_read_write_set(results)) == results
    assert len(calls) == 116


def test_every_ordered_read_write_set_that_parses_is_encoded_to_the_same_bytes_again() -> None:
    broken = {(82, 7), (82, 9), (83, 11)}
    seen = 0
    for place, results in ordered_results():
        if place not in broken:
            assert encode_read_write_set(decode_read_write_set(results)) == results
            seen += 1
        else:
            with pytest.raises(FabricError):
                decode_read_write_set(results)
    assert seen == 205


def ordered_results() -> Iterator[tuple[tuple[int, int], bytes]]:
    for step in replayed().steps:
        for index, envelope in enumerate(decode_block(step.encoded).data.data):
            try:
                transaction = decode_transaction(envelope)
            except FabricError:
                continue  # on the ledger on purpose: an action or event that does not parse
            if transaction.type == common_pb2.ENDORSER_TRANSACTION:
                yield (step.number, index), transaction.results


def test_every_private_write_set_is_encoded_to_the_same_bytes_again() -> None:
    stored = recorded_json("private")["stored"]
    for entry in stored:
        private = bytes.fromhex(entry["rwset"])
        assert encode_private_write_set(decode_private_write_set(private)) == private
    assert len(stored) == 37


def test_the_hashes_of_private_writes_are_those_on_the_public_ledger() -> None:
    public = {
        (place, namespace.namespace, collection.collection): collection
        for place, results in ordered_results()
        if place not in {(82, 7), (82, 9), (83, 11)}
        for namespace in decode_read_write_set(results).namespaces
        for collection in namespace.collections
    }
    compared = 0
    for entry in recorded_json("private")["stored"]:
        on_ledger = public[(entry["block"], entry["index"]), entry["chaincode"], entry["collection"]]
        private = bytes.fromhex(entry["rwset"])
        if hashlib.sha256(private).digest() != on_ledger.private_hash:
            continue  # a key in it was purged later and is cut out
        clear = decode_private_write_set(private)
        entries = {write.key_hash: write.entries for write in on_ledger.metadata_writes}
        purged = {write.key_hash for write in on_ledger.writes if write.is_purge}
        hashed = hash_private_write_set(
            entry["collection"],
            clear,
            reads=on_ledger.reads,
            metadata={key: entries[hash_key(key)] for key in clear.metadata_keys},
            purges=[write.key for write in clear.writes if hash_key(write.key) in purged],
        )
        assert hashed == on_ledger
        compared += 1
    assert compared >= 30


def test_validating_again_with_remembered_signatures_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed()
    verified: list[bytes] = []
    monkeypatch.setattr(signature_module, "verify_digest", lambda key, signature, digest: verified.append(signature))
    step = replayed().steps[11]
    step.verify(step.encoded)
    assert not verified


def test_every_block_passes_all_of_an_auditors_checks_at_its_place() -> None:
    for step in replayed().steps:
        step.verify(step.encoded)


def test_one_flipped_byte_anywhere_in_a_block_is_found() -> None:
    rng = random.Random(20240)
    missed = []
    for step, position, mask in flips(rng):
        changed = bytearray(step.encoded)
        changed[position] ^= mask
        try:
            step.verify(bytes(changed))
        except FabricError:
            continue
        missed.append((step, position, mask))
    for step, position, mask in missed:
        if step.number:
            assert_says_the_same(step, position, mask)
        else:  # found by its hash, which is pinned, and by the link of block 1
            assert_found_by_hash(position, mask)


def assert_says_the_same(step: Step, position: int, mask: int) -> None:
    """What peers do not look at, either: the unsigned LAST_CONFIG, and a signature too many."""
    changed = bytearray(step.encoded)
    changed[position] ^= mask
    before, after = decode_block(step.encoded), decode_block(bytes(changed))
    for block in (before, after):
        block.metadata.metadata[common_pb2.LAST_CONFIG] = b""
    if before != after:
        assert len(decode_metadata(after).signatures) > 3
        before.metadata.metadata[common_pb2.SIGNATURES] = after.metadata.metadata[common_pb2.SIGNATURES]
    assert before == after


def flips(rng: random.Random) -> Iterator[tuple[Step, int, int]]:
    """Positions all over the ledger, and every position of header and metadata in a few blocks."""
    steps = replayed().steps
    for step in rng.sample(steps[1:], 4):
        block = decode_block(step.encoded)
        data = len(block.data.SerializeToString())
        start = step.encoded.index(block.data.SerializeToString())
        for position in (*range(start), *range(start + data, len(step.encoded))):
            yield step, position, 1 << rng.randrange(8)
    for _ in range(FLIPS):
        step = rng.choice(steps)
        yield step, rng.randrange(len(step.encoded)), 1 << rng.randrange(8)


def assert_found_by_hash(position: int, mask: int) -> None:
    encoded = recorded_block_bytes()[0]
    changed = bytearray(encoded)
    changed[position] ^= mask
    block = decode_block(bytes(changed))
    assert header_hash(block.header) != header_hash(decode_block(encoded).header)


@pytest.mark.parametrize("number", [0, 1, 66, 95])
def test_every_single_byte_of_a_header_and_of_its_signatures_matters(number: int) -> None:
    step = replayed().steps[number]
    block = decode_block(step.encoded)
    der = header_bytes(block.header)
    for position in range(len(der)):
        changed = bytearray(der)
        changed[position] ^= 1
        assert hashlib.sha256(changed).digest() != header_hash(block.header)
    entry = block.metadata.metadata[0]
    for position in range(len(entry)):
        changed = bytearray(entry)
        changed[position] ^= 1
        block.metadata.metadata[0] = bytes(changed)
        with pytest.raises(FabricError):
            step.verify(encode_block(block))
