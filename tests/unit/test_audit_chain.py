"""The auditor's chain proof, against the ledger that real peers wrote."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from fabric_protos.common import common_pb2
from fabric_protos.msp import identities_pb2

from blockfl.audit import chain
from blockfl.audit.chain import ChainProof, pinned_hash
from blockfl.audit.errors import VerificationError
from blockfl.audit.verification import list_silent
from blockfl.fabric.channel.block import decode_metadata, header_hash
from blockfl.fabric.identity.signing import Identity
from blockfl.fabric.transaction.reading import Reading, decode_transaction
from blockfl.fabric.transaction.rwset import decode_read_write_set
from support.recording import recorded_block_bytes, recorded_blocks, recorded_json

LAST = 12


def new_proof() -> ChainProof:
    return ChainProof(genesis_hash=header_hash(recorded_blocks()[0].header), namespace="app")


def changed(number: int) -> Any:
    return common_pb2.Block.FromString(recorded_block_bytes()[number])


def add_up_to(proof: ChainProof, number: int) -> None:
    for block in recorded_blocks()[:number]:
        proof.add(block)


def test_the_recorded_ledger_verifies_with_the_codes_and_hashes_of_real_peers() -> None:
    proof = new_proof()
    add_up_to(proof, len(recorded_blocks()))
    expected = recorded_json("expected")
    assert proof.blocks == expected["height"]
    assert proof.last_hash.hex() == expected["last_block_hash"]
    assert proof.last_commit_hash.hex() == expected["last_commit_hash"]
    assert proof.codes == Counter(transaction["code"] for transaction in expected["transactions"])


def test_the_writes_of_the_chosen_contract_are_kept_in_order() -> None:
    proof = new_proof()
    add_up_to(proof, len(recorded_blocks()))
    final = {write.key: write.value for write in proof.writes}
    state = recorded_json("state")["public"]["app"]
    assert {key: final[key].hex() for key in state} == {key: row["value"] for key, row in state.items()}


def test_every_write_is_placed_at_the_transaction_that_made_it() -> None:
    proof = new_proof()
    blocks = recorded_blocks()
    add_up_to(proof, len(blocks))
    positions = [write.position for write in proof.writes]
    assert positions == sorted(positions)
    assert any(number > 0 for _, number in positions)
    for write in proof.writes:
        transaction = decode_transaction(blocks[write.block_number].data.data[write.transaction])
        (own,) = [one for one in decode_read_write_set(transaction.results).namespaces if one.namespace == "app"]
        touched = {one.key for one in own.writes} | {one.key for one in own.metadata_writes}
        assert write.key in touched


def test_who_endorsed_is_counted_for_valid_transactions_of_the_contract_only() -> None:
    proof = new_proof()
    add_up_to(proof, len(recorded_blocks()))
    expected: Counter[tuple[str, str]] = Counter()
    for block in recorded_blocks():
        codes = decode_metadata(block).filter
        for data, code in zip(block.data.data, codes, strict=False):
            if code == 0 and (transaction := decode_transaction(data)).chaincode == "app":
                said = [identities_pb2.SerializedIdentity.FromString(one.endorser) for one in transaction.endorsements]
                expected.update({(transaction.args[0].decode(), one.mspid) for one in said})
    assert proof.endorsements == expected
    assert len({name for _, name in expected}) > 1


def test_who_endorsed_the_last_verdicts_is_kept_and_who_is_missing_from_all_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proof = new_proof()
    add_up_to(proof, len(recorded_blocks()))
    *_, at = proof.writes
    recorded = decode_transaction(recorded_blocks()[at.block_number].data.data[at.transaction])
    verdict = replace(recorded, args=(b"JudgeUpdate",))
    endorsers = frozenset(Identity.parse(one.endorser).msp_id for one in verdict.endorsements)
    monkeypatch.setattr(chain, "decode_transaction", lambda _: verdict)
    assert list_silent(("nobody", *endorsers), proof.judged) == ()
    for index in range(2 * chain.LATEST_VERDICTS):
        proof._note(index, Reading(b""), "VALID", "")
    assert list(proof.judged) == [endorsers] * chain.LATEST_VERDICTS
    assert list_silent(("nobody", *endorsers), proof.judged) == ("nobody",)
    assert list_silent(("alpha",), [frozenset({"beta"}), frozenset({"alpha", "beta"})]) == ()


def test_another_first_block_than_the_pinned_one_is_refused() -> None:
    proof = ChainProof(genesis_hash=b"\0" * 32, namespace="app")
    with pytest.raises(VerificationError, match="another ledger than the one you pinned"):
        proof.add(recorded_blocks()[0])


def test_a_left_out_block_is_found() -> None:
    proof = new_proof()
    add_up_to(proof, LAST)
    with pytest.raises(VerificationError, match=f"block {LAST}"):
        proof.add(recorded_blocks()[LAST + 1])


def test_a_changed_transaction_is_found() -> None:
    proof = new_proof()
    add_up_to(proof, LAST)
    block = changed(LAST)
    block.data.data[0] = block.data.data[0][:-1] + bytes([block.data.data[0][-1] ^ 1])
    with pytest.raises(VerificationError, match=f"block {LAST}: .*data"):
        proof.add(block)


def test_a_validity_flag_that_the_peer_made_up_is_found() -> None:
    proof = new_proof()
    add_up_to(proof, LAST)
    block = changed(LAST)
    flags = bytearray(block.metadata.metadata[common_pb2.TRANSACTIONS_FILTER])
    flags[0] = 11 if flags[0] == 0 else 0
    block.metadata.metadata[common_pb2.TRANSACTIONS_FILTER] = bytes(flags)
    with pytest.raises(VerificationError, match="validating it anew gives"):
        proof.add(block)


def test_a_validity_flag_too_many_is_found() -> None:
    proof = new_proof()
    add_up_to(proof, LAST)
    block = changed(LAST)
    block.metadata.metadata[common_pb2.TRANSACTIONS_FILTER] += b"\0"
    with pytest.raises(VerificationError, match="validity flags are recorded for"):
        proof.add(block)


def test_a_missing_commit_hash_is_found() -> None:
    proof = new_proof()
    add_up_to(proof, LAST)
    block = changed(LAST)
    block.metadata.metadata[common_pb2.COMMIT_HASH] = b""
    with pytest.raises(VerificationError, match="commit hash is missing"):
        proof.add(block)


def test_a_block_without_a_quorum_of_signatures_is_found() -> None:
    proof = new_proof()
    add_up_to(proof, LAST)
    block = changed(LAST)
    signatures = common_pb2.Metadata.FromString(block.metadata.metadata[common_pb2.SIGNATURES])
    del signatures.signatures[1:]
    block.metadata.metadata[common_pb2.SIGNATURES] = signatures.SerializeToString()
    with pytest.raises(VerificationError, match=f"block {LAST}"):
        proof.add(block)


def test_the_pinned_hash_is_that_of_the_first_blocks_header() -> None:
    assert pinned_hash(recorded_block_bytes()[0]) == header_hash(recorded_blocks()[0].header)
