"""An audit that nobody can end: what is judged otherwise than most peers did is named, and verification goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fabric_protos.common import common_pb2
from fabric_protos.peer import transaction_pb2
from typer.testing import CliRunner, Result

from blockfl.audit import chain as chain_module
from blockfl.audit.bundle import BundleWriter
from blockfl.audit.chain import ChainProof
from blockfl.audit.errors import DisputedError, VerificationError
from blockfl.audit.finding import is_majority
from blockfl.cli.main import app
from blockfl.cli.output import Exit
from blockfl.fabric.channel.block import decode_metadata, encode_block, header_hash, set_commit
from blockfl.fabric.errors import BlockError
from blockfl.fabric.validate import BlockValidation, follow_block, validate_block
from support.recording import recorded_block_bytes, recorded_blocks, recorded_json
from support.replay import replayed

MEMBERS = ("HospitalAMSP", "HospitalBMSP", "HospitalCMSP", "AggregatorMSP")
MAJORITY = MEMBERS[:3]
DISPUTED, PLACE = 20, 0


def new_proof(last: int) -> ChainProof:
    proof = ChainProof(genesis_hash=header_hash(recorded_blocks()[0].header), namespace="app")
    for block in recorded_blocks()[:last]:
        proof.add(block)
    return proof


def valid_places() -> list[tuple[int, int]]:
    listed = recorded_json("expected")["transactions"]
    return [(t["block"], t["index"]) for t in listed if t["code"] == "VALID" and t["type"] == "ENDORSER_TRANSACTION"]


@pytest.fixture
def misjudging(monkeypatch: pytest.MonkeyPatch) -> int:
    """Our validation takes one valid transaction in the middle of the ledger for a bad one, as a parser might."""
    number, index = valid_places()[40]

    def validate(block: Any, *arguments: Any, **settings: Any) -> BlockValidation:
        found = validate_block(block, *arguments, **settings)
        if block.header.number != number:
            return found
        codes = [*found.codes]
        codes[index] = int(transaction_pb2.BAD_RWSET)
        reasons = tuple("planted" if at == index else reason for at, reason in enumerate(found.reasons))
        kept = follow_block(block, arguments[0], arguments[1], codes)
        return BlockValidation(
            number=number,
            codes=tuple(codes),
            reasons=reasons,
            tx_ids=kept.tx_ids,
            updates=kept.updates,
            config=None,
        )

    monkeypatch.setattr(chain_module, "validate_block", validate)
    return number


def test_verification_goes_on_with_the_record_of_most_peers_and_names_the_transaction(misjudging: int) -> None:
    proof = new_proof(misjudging)
    for block in recorded_blocks()[misjudging:]:
        proof.add(block, MAJORITY if block.header.number == misjudging else ())
    expected = recorded_json("expected")
    assert proof.blocks == expected["height"]
    assert proof.last_commit_hash.hex() == expected["last_commit_hash"]
    (finding,) = proof.findings
    assert (finding.block, finding.recorded, finding.found) == (misjudging, "VALID", "BAD_RWSET")
    transaction = next(
        t for t in expected["transactions"] if (t["block"], t["index"]) == (finding.block, finding.transaction)
    )
    assert finding.sender == transaction["creator"]
    assert list(finding.endorsers) == sorted(transaction["endorsers"])
    assert finding.agreed == tuple(sorted(MAJORITY))
    assert "planted" in str(finding)
    # What the transaction wrote is there, as on the peers: the state is theirs.
    assert {w.key: w.value.hex() for w in proof.writes}.items() >= {
        (key, row["value"]) for key, row in recorded_json("state")["public"]["app"].items()
    }


@pytest.mark.parametrize("agreed", [(), MEMBERS[:1], MEMBERS[:2], ("Nobody", "Else", "Another")])
def test_without_most_peers_a_record_is_disputed_and_nothing_is_taken_over(
    misjudging: int, agreed: tuple[str, ...]
) -> None:
    proof = new_proof(misjudging)
    with pytest.raises(DisputedError, match="recorded as VALID, but validating it anew gives BAD_RWSET"):
        proof.add(recorded_blocks()[misjudging], agreed)
    assert proof.blocks == misjudging
    assert not proof.findings
    proof.add(recorded_blocks()[misjudging], MAJORITY)  # and asking again, with the answers, is all it takes


@pytest.mark.parametrize("computes_hash", [False, True])
def test_a_changed_record_is_tampering_whatever_peers_are_said_to_agree(computes_hash: bool) -> None:
    number, index = valid_places()[30]
    proof = new_proof(number)
    block = common_pb2.Block.FromString(recorded_block_bytes()[number])
    flags = bytearray(decode_metadata(block).filter)
    flags[index] = int(transaction_pb2.MVCC_READ_CONFLICT)
    block.metadata.metadata[common_pb2.TRANSACTIONS_FILTER] = bytes(flags)
    if not computes_hash:
        with pytest.raises(VerificationError, match="nor does the commit hash go with the record") as caught:
            proof.add(block, MEMBERS)
        assert not isinstance(caught.value, DisputedError)
        return
    # A forger who computes the commit hash anew needs the copies of most organisations, too.
    forged = follow_block(block, replayed().steps[number].config, replayed().steps[number].state, flags)
    set_commit(block, bytes(flags), forged.commit_hash(proof.last_commit_hash))
    with pytest.raises(DisputedError, match="0 of 4 organisations hold this record"):
        proof.add(block)


def test_a_configuration_that_we_refuse_and_most_peers_took_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    number = 66

    def validate(block: Any, *arguments: Any, **settings: Any) -> BlockValidation:
        if block.header.number == number:
            raise BlockError("planted: the update is not allowed")
        return validate_block(block, *arguments, **settings)

    monkeypatch.setattr(chain_module, "validate_block", validate)
    proof = new_proof(number)
    with pytest.raises(DisputedError):
        proof.add(recorded_blocks()[number])
    for block in recorded_blocks()[number:]:
        proof.add(block, MAJORITY)
    assert proof.last_commit_hash.hex() == recorded_json("expected")["last_commit_hash"]
    assert [(one.block, one.found) for one in proof.findings] == [(number, "INVALID_CONFIG_TRANSACTION")]


def test_most_organisations_are_more_than_half_of_those_with_peers() -> None:
    config = replayed().steps[10].config
    assert set(config.application_msp_ids) == set(MEMBERS)
    assert is_majority(MAJORITY, config)
    assert not is_majority(MEMBERS[:2], config)
    assert not is_majority((MEMBERS[0],) * 4, config)


def test_following_the_recorded_codes_gives_what_validating_gives() -> None:
    for step in replayed().steps[1:]:
        block = recorded_blocks()[step.number]
        followed = follow_block(block, step.config, step.state, step.validation.codes)
        assert followed.updates == step.validation.updates
        assert followed.tx_ids == step.validation.tx_ids
        assert (followed.config is None) == (step.validation.config is None)


def test_codes_of_another_number_of_transactions_are_not_followed() -> None:
    step = replayed().steps[DISPUTED]
    with pytest.raises(BlockError, match="codes"):
        follow_block(recorded_blocks()[DISPUTED], step.config, step.state, (*step.validation.codes, 0))
    unreadable = common_pb2.Block.FromString(recorded_block_bytes()[DISPUTED])
    unreadable.data.data[PLACE] = b"\xff"
    with pytest.raises(BlockError, match=r"cannot be read: expected common\.Envelope"):
        follow_block(unreadable, step.config, step.state, [0] * len(unreadable.data.data))


def pack(path: Path, blocks: Sequence[bytes]) -> Path:
    with BundleWriter(path) as writer:
        for number, block in enumerate(blocks):
            writer.add_block(number, block)
        last = header_hash(recorded_blocks()[-1].header).hex()
        writer.finish(channel="fed", contract="app", first_block=0, previous_hash="", last_hash=last)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return pack(tmp_path / "evidence.bundle", recorded_block_bytes())


def run_verify(bundle: Path, witnesses: Mapping[str, Path]) -> Result:
    command = ["audit", "verify", str(bundle), "--genesis-hash", header_hash(recorded_blocks()[0].header).hex()]
    command += [word for name, path in witnesses.items() for word in ("--witness", f"{name}={path}")]
    return CliRunner().invoke(app, command)


def test_bundles_of_most_organisations_vouch_for_a_disputed_record_and_the_exit_code_says_so(
    misjudging: int, bundle: Path
) -> None:
    done = run_verify(bundle, dict.fromkeys(MAJORITY, bundle))
    assert done.exit_code == Exit.FINDINGS
    assert "findings: 1" in done.stdout


def test_without_enough_bundles_a_disputed_record_fails(misjudging: int, bundle: Path, tmp_path: Path) -> None:
    blocks = list(recorded_block_bytes())
    other = common_pb2.Block.FromString(blocks[misjudging])
    set_commit(other, bytes(decode_metadata(other).filter), bytes(32))
    blocks[misjudging] = encode_block(other)
    differs = pack(tmp_path / "other.bundle", blocks)
    for witnesses in (
        {},
        dict.fromkeys(MEMBERS[:2], bundle),
        {**dict.fromkeys(MEMBERS[:2], bundle), MEMBERS[2]: differs},
    ):
        assert isinstance(run_verify(bundle, witnesses).exception, DisputedError)


def test_a_witness_is_named_with_its_organisation(bundle: Path) -> None:
    command = ["audit", "verify", str(bundle), "--genesis-hash", "0" * 64, "--witness", str(bundle)]
    assert "expected --witness MSPID=BUNDLE" in str(CliRunner().invoke(app, command).exception)
