"""The ledger of real peers, replayed through the embedded node's committer: same codes, hashes, state, private data."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from blockfl.fabric.channel.block import decode_metadata
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger, PrivateSet
from blockfl.fabric.errors import BlockError, NodeError
from blockfl.fabric.transaction.code import code_name
from blockfl.fabric.transaction.envelope import VALID
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.transaction.rwset import decode_metadata as decode_entries
from blockfl.fabric.transaction.rwset import decode_read_write_set
from support.recording import recorded_block_bytes, recorded_blocks, recorded_json

EXPECTED = recorded_json("expected")
STATE = recorded_json("state")
STORED = recorded_json("private")["stored"]


def transaction_id(block: int, index: int) -> str:
    found: str = next(t["tx_id"] for t in EXPECTED["transactions"] if (t["block"], t["index"]) == (block, index))
    return found


async def stage_recorded(ledger: ChannelLedger, organisation: str, number: int) -> None:
    """Stage what one organisation's peer held of a block, as its endorser would have."""
    for entry in STORED:
        if entry["block"] == number and organisation in entry["held_by"] and entry.get("rwset"):
            part = PrivateSet(
                namespace=entry["chaincode"],
                collection=entry["collection"],
                rwset=bytes.fromhex(entry["rwset"]),
            )
            await ledger.stage_private(organisation, transaction_id(number, entry["index"]), [part])


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that took all recorded blocks; HospitalAMSP and AggregatorMSP endorsed private data."""
    directory = tmp_path_factory.mktemp("recorded") / "ledger"
    with ChannelLedger.open(directory, recorded_blocks()[0]) as ledger:
        for number, block in enumerate(recorded_block_bytes()[1:], start=1):
            for organisation in ledger.config.application_msp_ids:
                asyncio.run(stage_recorded(ledger, organisation, number))
            ledger.append(block)
    return directory


def test_the_replayed_ledger_ends_with_the_recorded_hashes(replayed: Path) -> None:
    with ChannelLedger.open(replayed) as ledger:
        assert ledger.height == EXPECTED["height"]
        assert ledger.last_header_hash.hex() == EXPECTED["last_block_hash"]
        assert ledger.last_commit_hash.hex() == EXPECTED["last_commit_hash"]


def test_the_replayed_ledger_stores_the_recorded_blocks_byte_for_byte(replayed: Path) -> None:
    with ChannelLedger.open(replayed) as ledger:
        stored = [ledger.block(number) for number in range(ledger.height)]
    assert stored == list(recorded_block_bytes())


def test_every_recorded_transaction_is_found_with_its_code(replayed: Path) -> None:
    first: dict[str, tuple[str, int, int]] = {}
    for entry in EXPECTED["transactions"]:
        if entry["tx_id"]:  # Orderers leave the id of a configuration out.
            first.setdefault(entry["tx_id"], (entry["code"], entry["block"], entry["index"]))
    with ChannelLedger.open(replayed) as ledger:
        found = {}
        for name in first:
            status = ledger.transaction(name)
            assert status is not None
            found[name] = (code_name(status.code), status.block_number, status.index)
    assert found == first


def test_the_public_state_is_what_a_real_peer_exported(replayed: Path) -> None:
    with ChannelLedger.open(replayed) as ledger, ledger.snapshot() as view:
        for namespace, expected in STATE["public"].items():
            found = dict(view.range(namespace, "", ""))
            assert {key: public_form(value) for key, value in found.items()} == expected
            assert list(found) == sorted(expected, key=str.encode)


def test_the_hashed_state_is_what_a_real_peer_exported_without_what_expired(replayed: Path) -> None:
    with ChannelLedger.open(replayed) as ledger, ledger.snapshot() as view:
        for namespace, collections in STATE["private_hashed"].items():
            for collection, expected in collections.items():
                for key_hash, entry in expected.items():
                    found = view.get_hash(namespace, collection, bytes.fromhex(key_hash))
                    assert found is not None
                    assert found.value_hash.hex() == entry["value_hash"]
                    assert list(found.version) == entry["version"]
        expected_hashes = {
            (namespace, collection, key)
            for namespace, collections in STATE["private_hashed"].items()
            for collection, keys in collections.items()
            for key in keys
        }
        # Deleted, purged and expired keys must be gone; the recording has some of each.
        written = set(hashed_writes())
        found_now = {place for place in written if view.get_hash(*place[:2], bytes.fromhex(place[2]))}
        assert found_now == expected_hashes
        assert {collection for _, collection, _ in written - expected_hashes} >= {"brief", "sealed"}


def test_members_hold_the_private_sets_that_real_peers_hold(replayed: Path) -> None:
    expected: dict[str, set[tuple[int, int, str, str, str]]] = {}
    for entry in STORED:
        for organisation in entry["held_by"] if entry["code"] == "VALID" and entry.get("rwset") else ():
            place = (entry["block"], entry["index"], entry["chaincode"], entry["collection"], entry["rwset"])
            expected.setdefault(organisation, set()).add(place)
    with ChannelLedger.open(replayed) as ledger:
        for organisation, sets in expected.items():
            found = {
                (number, part.tx_index, part.namespace, part.collection, part.rwset.hex())
                for number in range(ledger.height)
                for part in ledger.private_sets(organisation, number)
            }
            assert found >= sets
            assert found - sets == set()


def test_members_read_the_private_values_that_the_hashes_name(replayed: Path) -> None:
    checked = 0
    with ChannelLedger.open(replayed) as ledger, ledger.snapshot("HospitalAMSP") as view:
        for entry in STORED:
            for write in entry["writes"] if "HospitalAMSP" in entry["held_by"] else ():
                place = entry["chaincode"], entry["collection"]
                hashed = view.get_hash(*place, sha256(write["key"].encode()).digest())
                if hashed is None or list(hashed.version) != [entry["block"], entry["index"]]:
                    continue
                found = view.private_get("HospitalAMSP", *place, write["key"])
                assert found is not None
                assert found.value.hex() == write["value"]
                assert found.version == hashed.version
                checked += 1
    assert checked >= 20


def test_a_state_that_is_lost_is_made_again_from_the_blocks(replayed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "ledger"
    shutil.copytree(replayed, copy)
    for path in copy.glob("state.sqlite*"):
        path.unlink()
    with ChannelLedger.open(copy) as ledger:
        assert ledger.height == EXPECTED["height"]
        assert ledger.last_commit_hash.hex() == EXPECTED["last_commit_hash"]
        with ledger.snapshot() as view:
            assert len(dict(view.range("app", "", ""))) == len(STATE["public"]["app"])


def test_configuration_blocks_change_the_configuration_in_force(tmp_path: Path) -> None:
    with ChannelLedger.open(tmp_path / "ledger", recorded_blocks()[0]) as ledger:
        sizes = set()
        for block in recorded_block_bytes()[1:68]:
            ledger.append(block)
            sizes.add((len(ledger.config.application_msp_ids), ledger.config.sequence))
        assert sizes == {(4, 0), (5, 1)}
        with ledger.snapshot("HospitalDMSP") as view:
            assert view.organisations == ("HospitalDMSP",)


@pytest.mark.parametrize("part", ["filter", "commit_hash", "signature", "order"])
def test_a_recorded_block_that_was_changed_is_not_appended(tmp_path: Path, part: str) -> None:
    block = type(recorded_blocks()[1]).FromString(recorded_block_bytes()[1])
    if part == "filter":
        block.metadata.metadata[2] = b"\x0b"
    elif part == "commit_hash":
        block.metadata.metadata[4] = block.metadata.metadata[4][:-1] + b"\x00"
    elif part == "signature":
        block.metadata.metadata[0] = block.metadata.metadata[0][:-1] + b"\x00"
    else:
        block = recorded_blocks()[2]
    with ChannelLedger.open(tmp_path / "ledger", recorded_blocks()[0]) as ledger:
        with pytest.raises(BlockError):
            ledger.append(block.SerializeToString())
        assert ledger.height == 1
        ledger.append(recorded_block_bytes()[1])
        assert ledger.height == 2


def test_a_block_from_an_orderer_gets_its_validity_codes_here(tmp_path: Path) -> None:
    block = type(recorded_blocks()[1]).FromString(recorded_block_bytes()[1])
    block.metadata.metadata[2] = b""
    block.metadata.metadata[4] = b""
    with ChannelLedger.open(tmp_path / "ledger", recorded_blocks()[0]) as ledger:
        assert ledger.append(block.SerializeToString()) == (0,)
        assert ledger.block(1) == recorded_block_bytes()[1]
        assert decode_metadata(recorded_blocks()[1]).commit_hash == ledger.last_commit_hash


def test_a_ledger_without_an_orderers_key_does_not_order(tmp_path: Path) -> None:
    with ChannelLedger.open(tmp_path / "ledger", recorded_blocks()[0]) as ledger:
        with pytest.raises(NodeError, match="without an orderer's key"):
            asyncio.run(ledger.order(recorded_blocks()[1].data.data[0]))
        assert ledger.failure is None


def hashed_writes() -> Iterator[tuple[str, str, str]]:
    """Every private key that a valid recorded transaction writes, by its hash."""
    for block in recorded_blocks():
        for envelope, code in zip(block.data.data, decode_metadata(block).filter, strict=True):
            results = decode_transaction(envelope).results if code == VALID else b""
            for namespace in decode_read_write_set(results).namespaces:
                for collection in namespace.collections:
                    hashes = [write.key_hash for write in collection.writes]
                    hashes += [write.key_hash for write in collection.metadata_writes]
                    for key_hash in hashes:
                        yield namespace.namespace, collection.collection, key_hash.hex()


def public_form(value: Any) -> dict[str, Any]:
    form: dict[str, Any] = {"value": value.value.hex(), "version": list(value.version)}
    if entries := decode_entries(value.metadata):
        form["metadata"] = {name: content.hex() for name, content in entries.items()}
    return form
