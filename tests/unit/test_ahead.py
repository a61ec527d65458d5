"""An auditor's second process verifies signatures ahead of their blocks, and nothing depends on it."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import pytest

from blockfl.audit.chain import ChainProof
from blockfl.audit.errors import VerificationError
from blockfl.fabric.channel.block import decode_block, decode_metadata, encode_block, header_hash
from blockfl.fabric.channel.block_reading import BlockReading
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.identity.signing import Identity
from blockfl.fabric.identity.verifier import NOT_GOOD, answer
from blockfl.fabric.validate import SignatureCache, ahead
from blockfl.fabric.validate.ahead import list_signed, look_ahead, make_question
from support.recording import recorded_blocks

ENOUGH_S = 60.0


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(ahead, "_FEW", 1)


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that were started."""
    started: list[Any] = []
    make = ahead._Helper

    def making() -> Any:
        started.append(make())
        return started[-1]

    monkeypatch.setattr(ahead, "_Helper", making)
    return started


def replay(blocks: list[Any], *, is_ahead: bool) -> ChainProof:
    proof = ChainProof(genesis_hash=header_hash(blocks[0].header), namespace="app")
    for block in look_ahead(blocks, proof.signatures, proof.list_nodes) if is_ahead else blocks:
        proof.add(block)
    return proof


def summarise(proof: ChainProof) -> tuple[object, ...]:
    return proof.last_hash, proof.last_commit_hash, proof.codes, list(proof.entries), list(proof.writes)


@pytest.mark.usefixtures("two_cores")
def test_the_outcome_is_the_same_with_and_without_it(helpers: list[Any]) -> None:
    blocks = list(recorded_blocks())
    assert summarise(replay(blocks, is_ahead=True)) == summarise(replay(blocks, is_ahead=False))
    (helper,) = helpers
    assert helper._process.returncode is not None  # it has ended


@pytest.mark.usefixtures("two_cores")
def test_what_it_has_verified_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, helper = list(recorded_blocks()), ahead._Helper()
    proof = ChainProof(genesis_hash=header_hash(blocks[0].header), namespace="app")
    nodes = ChannelConfig.from_block(blocks[0], lenient=True).numbered_nodes
    try:
        for block in blocks[:40]:
            for question in list_questions(block, nodes):
                helper.offer(question)
        while helper._waiting:
            unsent = [helper._input] if helper._unsent else []
            assert any(select.select([helper._output], unsent, [], ENOUGH_S)), "it says nothing any more"
            for fingerprint in helper.collect():
                proof.signatures.admit(fingerprint)
    finally:
        helper.close()

    def refuse(*_: object) -> None:
        raise AssertionError("it was known")

    monkeypatch.setattr(Identity, "verify", refuse)
    monkeypatch.setattr("blockfl.fabric.validate.signatures.verify_digest", refuse)
    for block in blocks[:40]:
        proof.add(block)
    assert proof.blocks == 40


@pytest.mark.usefixtures("two_cores")
def test_a_forged_signature_is_found_in_the_same_words() -> None:
    blocks = [decode_block(encode_block(one)) for one in recorded_blocks()]
    forged = blocks[60]
    signatures = forged.metadata.metadata[0]
    forged.metadata.metadata[0] = signatures[:-1] + bytes((signatures[-1] ^ 1,))
    forged.metadata.metadata[0] = forged.metadata.metadata[0].replace(signatures[40:44], b"\0\0\0\0")
    said = []
    for is_ahead in (True, False):
        with pytest.raises(VerificationError) as refused:
            replay(blocks, is_ahead=is_ahead)
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "block 60" in said[0]


@pytest.mark.usefixtures("two_cores")
def test_what_goes_wrong_in_reading_comes_after_the_blocks_before() -> None:
    def cut_off() -> Iterator[Any]:
        yield from recorded_blocks()[:30]
        raise VerificationError("cut off")

    found = []

    def read() -> None:
        for block in look_ahead(cut_off(), SignatureCache(), dict):
            found.append(block.block.header.number)

    with pytest.raises(VerificationError, match="cut off"):
        read()
    assert found == list(range(30))


@pytest.mark.usefixtures("two_cores")
def test_a_process_that_has_died_is_not_missed(helpers: list[Any]) -> None:
    blocks = list(recorded_blocks())
    proof = ChainProof(genesis_hash=header_hash(blocks[0].header), namespace="app")
    for block in look_ahead(blocks, proof.signatures, proof.list_nodes):
        if helpers and helpers[0]._process.poll() is None:
            helpers[0]._process.kill()
            helpers[0]._process.wait()
        proof.add(block)
    assert summarise(proof) == summarise(replay(blocks, is_ahead=False))


def test_without_a_second_core_no_block_is_read_before_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(ahead, "_FEW", 1)
    read = []

    def blocks() -> Iterator[Any]:
        for block in recorded_blocks():
            read.append(block.header.number)
            yield block

    for block in look_ahead(blocks(), SignatureCache(), dict):
        assert read[-1] == block.block.header.number


def list_questions(block: Any, nodes: Mapping[int, bytes]) -> list[bytes]:
    questions = [make_question(*one) for one in list_signed(BlockReading(block), nodes)]
    return [one for one in questions if one is not None]


def list_answers(block: Any, nodes: Mapping[int, bytes]) -> list[bytes]:
    """What the process answers about a block, without a process."""
    said = BytesIO()
    answer(BytesIO(b"".join(list_questions(block, nodes))), said)
    encoded = said.getvalue()
    return [encoded[at : at + len(NOT_GOOD)] for at in range(0, len(encoded), len(NOT_GOOD))]


def test_it_finds_every_good_signature_and_no_other() -> None:
    first, second = recorded_blocks()[:2]
    assert list_answers(first, {}) == []  # nobody signs block 0
    nodes = ChannelConfig.from_block(first, lenient=True).numbered_nodes
    answers = list_answers(second, nodes)
    assert NOT_GOOD not in answers
    assert len(answers) > len(list_answers(second, {})) > 0  # who signs by a number that nobody has is nobody
    forged = decode_block(encode_block(second))
    data = forged.data.data[0]
    forged.data.data[0] = data[:-1] + bytes((data[-1] ^ 1,))
    assert [one == NOT_GOOD for one in list_answers(forged, nodes)].count(True) == 1
    forged.data.data[0] = b"no envelope"
    assert len(list_answers(forged, nodes)) == len(decode_metadata(second).signatures)
