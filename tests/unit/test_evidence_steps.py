"""One broken fixture for each step of the proof: each fails at its own step and names block, transaction, record."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fabric_protos.common import common_pb2
from fabric_protos.peer import proposal_response_pb2, transaction_pb2

from blockfl.audit.bundle import Bundle, BundleChain, BundleWriter
from blockfl.audit.chain import ChainProof
from blockfl.audit.errors import STEPS, Step, VerificationError
from blockfl.audit.export import find_fork
from blockfl.audit.history import History
from blockfl.audit.log import LoggedWrite, WriteLog
from blockfl.audit.verification import verify_bundles, verify_records
from blockfl.fabric.channel.block import (
    data_hash,
    decode_block,
    decode_metadata,
    encode_block,
    header_hash,
    sign_block,
)
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Signer
from blockfl.protocol import catalogue
from blockfl.protocol.canonical import Record
from blockfl.protocol.key import Key
from support.played_ledger import Played

SAMPLED = 3000


def quiet(_: str) -> None:
    pass


@dataclass
class Copy:
    """A bundle's content, for a liar to bend and to pack anew."""

    blocks: list[bytes]
    payloads: list[bytes]
    last: str

    @classmethod
    def of(cls, played: Played) -> Copy:
        with Bundle.open(played.bundle) as bundle:
            payloads = [bundle.payload(digest) for digest in bundle.manifest.payloads]
            blocks = [encode_block(block) for block in bundle.blocks()]
        return cls(blocks, [one for one in payloads if one is not None], played.last_hash)

    def pack(self, path: Path) -> Path:
        with BundleWriter(path) as writer:
            for number, block in enumerate(self.blocks):
                writer.add_block(number, block)
            for payload in self.payloads:
                writer.add_payload(payload)
            writer.finish(
                channel="testchannel", contract="blockfl", first_block=0, previous_hash="", last_hash=self.last
            )
        return path


@pytest.fixture
def copy(played: Played) -> Copy:
    return Copy.of(played)


@pytest.fixture(scope="module")
def proof(played: Played) -> ChainProof:
    chain = ChainProof(genesis_hash=played.genesis_hash, namespace="blockfl")
    with Bundle.open(played.bundle) as bundle:
        for block in bundle.blocks():
            chain.add(block)
    return chain


def find_verdict(copy: Copy) -> int:
    """The block with the verdict on gamma's update of round 2."""
    return next(n for n, block in enumerate(copy.blocks) if b"BFL416" in block)


# --- the chain


def leave_out(copy: Copy, _: Signer) -> None:
    del copy.blocks[find_verdict(copy)]


def reorder(copy: Copy, _: Signer) -> None:
    """Two neighbouring blocks exchange their transactions; blocks of one transaction are enough for this."""
    number = find_verdict(copy)
    earlier, later = (decode_block(copy.blocks[one]) for one in (number - 1, number))
    moved = list(earlier.data.data)
    del earlier.data.data[:]
    earlier.data.data.extend(later.data.data)
    del later.data.data[:]
    later.data.data.extend(moved)
    copy.blocks[number - 1 : number + 1] = [encode_block(earlier), encode_block(later)]


def change_quietly(copy: Copy, _: Signer) -> None:
    number = find_verdict(copy)
    block = decode_block(copy.blocks[number])
    block.data.data[0] = block.data.data[0][:-1] + bytes([block.data.data[0][-1] ^ 1])
    block.header.data_hash = data_hash(block.data.data)
    copy.blocks[number] = encode_block(block)


def exchange_endorsement(copy: Copy, orderer: Signer) -> None:
    """With the ordering node's help: one endorser's signature stands where another's belongs."""
    number = find_verdict(copy)
    block = decode_block(copy.blocks[number])
    envelope = common_pb2.Envelope.FromString(block.data.data[0])
    payload = common_pb2.Payload.FromString(envelope.payload)
    transaction = transaction_pb2.Transaction.FromString(payload.data)
    action = transaction_pb2.ChaincodeActionPayload.FromString(transaction.actions[0].payload)
    endorsements = action.action.endorsements
    exchanged = [
        proposal_response_pb2.Endorsement(endorser=one.endorser, signature=endorsements[0].signature)
        for one in endorsements
    ]
    del endorsements[:]
    endorsements.extend(exchanged)
    transaction.actions[0].payload = action.SerializeToString(deterministic=True)
    payload.data = transaction.SerializeToString(deterministic=True)
    # The client's own signature covers the endorsements, so the client helps, too; here it is the regulator's.
    envelope.payload = payload.SerializeToString(deterministic=True)
    _put(copy, number, [envelope.SerializeToString(deterministic=True)], orderer)


def _put(copy: Copy, number: int, data: Sequence[bytes], orderer: Signer) -> None:
    block = decode_block(copy.blocks[number])
    metadata = decode_metadata(block)
    block.data.ClearField("data")
    block.data.data.extend(data)
    block.header.data_hash = data_hash(block.data.data)
    sign_block(block, [orderer], last_config=0, consenter_metadata=metadata.consenter_metadata)
    copy.blocks[number] = encode_block(block)


def strip_signatures(copy: Copy, _: Signer) -> None:
    _bend_metadata(copy, common_pb2.SIGNATURES, b"")


def turn_code(copy: Copy, _: Signer) -> None:
    """The rejected update is hidden: the block says that its verdict was invalid."""
    _bend_metadata(copy, common_pb2.TRANSACTIONS_FILTER, bytes([transaction_pb2.MVCC_READ_CONFLICT]))


def change_commit_hash(copy: Copy, _: Signer) -> None:
    block = decode_block(copy.blocks[find_verdict(copy)])
    value = block.metadata.metadata[common_pb2.COMMIT_HASH]
    _bend_metadata(copy, common_pb2.COMMIT_HASH, value[:-1] + bytes([value[-1] ^ 1]))


def _bend_metadata(copy: Copy, index: int, value: bytes) -> None:
    number = find_verdict(copy)
    block = decode_block(copy.blocks[number])
    block.metadata.metadata[index] = value
    copy.blocks[number] = encode_block(block)


CHAIN: dict[Callable[[Copy, Signer], None], Step] = {
    leave_out: "chain",
    reorder: "chain",
    change_quietly: "ordering nodes",
    exchange_endorsement: "endorsements",
    strip_signatures: "ordering nodes",
    turn_code: "codes",
    change_commit_hash: "state",
}


@pytest.mark.parametrize("lie", CHAIN, ids=lambda lie: lie.__name__)
async def test_each_lie_about_the_chain_fails_at_its_own_step_and_names_the_block(
    played: Played, copy: Copy, tmp_path: Path, lie: Callable[[Copy, Signer], None]
) -> None:
    lie(copy, Signer.load("alpha", played.orderer.with_suffix(".pem"), played.orderer.with_suffix(".key")))
    with pytest.raises(VerificationError) as caught:
        await verify_bundles([copy.pack(tmp_path / "lie.bundle")], played.genesis_hash, quiet)
    assert caught.value.step == CHAIN[lie]
    assert caught.value.block is not None
    assert str(caught.value).startswith(f"step {STEPS.index(caught.value.step) + 1}, {CHAIN[lie]}: block ")
    if CHAIN[lie] in ("codes", "endorsements"):
        assert caught.value.transaction == 0


async def test_a_changed_byte_of_the_file_fails_at_the_first_step(played: Played, tmp_path: Path) -> None:
    content = bytearray(played.bundle.read_bytes())
    content[2000] ^= 1
    damaged = tmp_path / "damaged.bundle"
    damaged.write_bytes(content)
    with pytest.raises(VerificationError, match=r"step 1, files: .*block") as caught:
        await verify_bundles([damaged], played.genesis_hash, quiet)
    assert caught.value.step == "files"


async def test_another_ledger_s_first_block_fails_at_the_second_step(played: Played) -> None:
    with pytest.raises(VerificationError, match=r"step 2, first block: block 0: .* another ledger"):
        await verify_bundles([played.bundle], bytes(32), quiet)


async def test_an_end_that_was_cut_off_is_found_by_the_expected_hash(
    played: Played, copy: Copy, tmp_path: Path
) -> None:
    del copy.blocks[-3:]
    copy.last = header_hash(decode_block(copy.blocks[-1]).header).hex()
    short = copy.pack(tmp_path / "short.bundle")
    with pytest.raises(VerificationError, match=r"step 3, chain: .*the evidence was cut off"):
        await verify_bundles([short], played.genesis_hash, quiet, expected_hash=played.last_hash)


def test_a_fork_between_two_organisations_bundles_is_found(played: Played, copy: Copy, tmp_path: Path) -> None:
    change_quietly(copy, None)  # type: ignore[arg-type]
    with Bundle.open(played.bundle) as one, Bundle.open(copy.pack(tmp_path / "fork.bundle")) as other:
        assert find_fork(BundleChain([one]), BundleChain([other])) == find_verdict(copy)


async def test_a_missing_payload_is_named(played: Played, copy: Copy, tmp_path: Path) -> None:
    copy.payloads[1] = b"another sum"
    with pytest.raises(VerificationError, match=r"step 13, sums: .*no bundle holds the payload"):
        await verify_bundles([copy.pack(tmp_path / "payload.bundle")], played.genesis_hash, quiet)


# --- what a majority that lies together could have written


def bend(writes: list[LoggedWrite], key: Key[Any], index: int = -1, **changes: Any) -> None:
    """Let one of the writes of a record say something else."""
    places = [place for place, write in enumerate(writes) if write.key == key]
    record = key.of.kind.decode(writes[places[index]].value)
    bent: Record = type(record).model_validate({**dict(record), **changes})
    writes[places[index]] = replace(writes[places[index]], value=bent.encode())


def open_with_another_threshold(writes: list[LoggedWrite]) -> Key[Any]:
    key = catalogue.ROUND.key("heart", 2)
    for index in range(3):
        bend(writes, key, index, threshold=3)
    return key


def put_another_signature(writes: list[LoggedWrite]) -> Key[Any]:
    key = catalogue.HEADER.key("heart", 2, "alpha")
    other = catalogue.HEADER.key("heart", 1, "alpha")
    signature = next(one for one in writes if one.key == other).value
    bend(writes, key, signature=catalogue.HEADER.kind.decode(signature).signature)
    return key


def hide_a_rejection(writes: list[LoggedWrite]) -> Key[Any]:
    key = catalogue.ROUND.key("heart", 2)
    for index in (1, 2):
        bend(writes, key, index, rejected=(), absent=("gamma",))
    return key


def take_back_a_vote(writes: list[LoggedWrite]) -> Key[Any]:
    gone = catalogue.VOTE.key("heart", 3, "regulator")
    writes[:] = [one for one in writes if one.key != gone]
    return catalogue.ROUND.key("heart", 3)


def put_another_commitment(writes: list[LoggedWrite]) -> Key[Any]:
    other = next(one.value for one in reversed(writes) if one.key == "commitment/heart/000003/delta")
    value = catalogue.COMMITMENT.kind.decode(other).value
    bend(writes, catalogue.COMMITMENT.key("heart", 3, "alpha"), value=value)
    return catalogue.MODEL.key("heart", 3)


def publish_another_model(writes: list[LoggedWrite]) -> Key[Any]:
    digest = "a" * 64
    key = catalogue.MODEL.key("heart", 3)
    bend(writes, key, digest=digest)
    for member in ("coordinator", "regulator"):
        bend(writes, catalogue.VOTE.key("heart", 3, member), digest=digest)
    bend(writes, catalogue.PROGRESS.key("heart"), model_digest=digest)
    return key


def forge_a_settlement(writes: list[LoggedWrite]) -> Key[Any]:
    key = catalogue.SETTLEMENT.key("heart", 2)
    found = next(one for one in writes if one.key == key)
    outcomes = catalogue.SETTLEMENT.kind.decode(found.value).outcomes
    mild = tuple(one.model_copy(update={"penalty": 0}) if one.organisation == "gamma" else one for one in outcomes)
    bend(writes, key, outcomes=mild)
    return key


def make_credits(writes: list[LoggedWrite]) -> Key[Any]:
    at = max(writes, key=lambda one: one.position)
    account = catalogue.ACCOUNT.kind(organisation="regulator", credits=10**6)
    writes.append(
        LoggedWrite(
            block_number=at.block_number, transaction=at.transaction, key="account/regulator", value=account.encode()
        )
    )
    return catalogue.SUPPLY.key()


RECORDS: dict[Callable[[list[LoggedWrite]], Key[Any]], Step] = {
    open_with_another_threshold: "openings",
    put_another_signature: "headers",
    hide_a_rejection: "verdicts",
    take_back_a_vote: "versions",
    put_another_commitment: "sums",
    publish_another_model: "models",
    forge_a_settlement: "settlements",
    make_credits: "credits",
}


@pytest.mark.parametrize("lie", RECORDS, ids=lambda lie: lie.__name__)
async def test_each_lie_in_the_records_fails_at_its_own_step_and_names_record_and_place(
    played: Played, proof: ChainProof, lie: Callable[[list[LoggedWrite]], Key[Any]]
) -> None:
    writes = list(proof.writes)
    key = lie(writes)
    bent = replace(proof, writes=WriteLog(writes))
    with Bundle.open(played.bundle) as bundle, pytest.raises(VerificationError) as caught:
        await verify_records(BundleChain([bundle]), History(bent), quiet)
    assert (caught.value.step, caught.value.record) == (RECORDS[lie], key)
    places = [one.position for one in bent.writes if one.key == key]
    assert (caught.value.block, caught.value.transaction) in places
    assert f"record {key}: " in str(caught.value)


def test_every_step_but_the_configuration_s_has_a_fixture_here() -> None:
    """That of the configuration: ``test_audit_chain`` and ``test_audit_findings``."""
    assert {*CHAIN.values(), *RECORDS.values(), "files", "first block", "configuration"} == set(STEPS)


# --- thousands of single bytes


def test_every_changed_byte_of_a_block_is_found_there_even_if_the_file_was_packed_anew(
    played: Played, copy: Copy
) -> None:
    generator = random.Random(17)
    chain = ChainProof(genesis_hash=played.genesis_hash, namespace="blockfl")
    total = sum(len(one) for one in copy.blocks)
    tried = 0
    for number, honest in enumerate(copy.blocks):
        for _ in range(max(12, (SAMPLED + 500) * len(honest) // total)):
            at = generator.randrange(len(honest))
            bent = bytearray(honest)
            bent[at] ^= 1 << generator.randrange(8)
            assert is_found(chain, bytes(bent), number), f"block {number}, byte {at} of {len(honest)}"
            tried += 1
        chain.add(decode_block(honest))
    assert tried >= SAMPLED


def is_found(chain: ChainProof, encoded: bytes, number: int) -> bool:
    """Whether a block is refused in this place, and by its number."""
    try:
        block = decode_block(encoded)
    except FabricError:
        return True  # which a bundle names by its number, too
    try:
        chain.add(block)
    except VerificationError as error:
        return error.block == number
    return False
