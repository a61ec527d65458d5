"""An auditor's second process verifies signatures ahead of their blocks, and nothing depends on it."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from typing import Any

import pytest

from blockfl.audit.chain import ChainProof
from blockfl.audit.errors import VerificationError
from blockfl.fabric.channel.block import decode_block, encode_block, header_hash
from blockfl.fabric.identity.signing import Identity
from blockfl.fabric.validate import SignatureCache, ahead
from blockfl.fabric.validate.ahead import look_ahead
from blockfl.fabric.validate.ahead_process import Reader
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
    for block in look_ahead(blocks, proof.signatures) if is_ahead else blocks:
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
    try:
        for block in blocks[:40]:
            helper.offer(encode_block(block))
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
    monkeypatch.setattr("blockfl.fabric.validate.signatures.verify_signature", refuse)
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
        for block in look_ahead(cut_off(), SignatureCache()):
            found.append(block.header.number)

    with pytest.raises(VerificationError, match="cut off"):
        read()
    assert found == list(range(30))


@pytest.mark.usefixtures("two_cores")
def test_a_process_that_has_died_is_not_missed(helpers: list[Any]) -> None:
    blocks = list(recorded_blocks())
    proof = ChainProof(genesis_hash=header_hash(blocks[0].header), namespace="app")
    for block in look_ahead(blocks, proof.signatures):
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

    for block in look_ahead(blocks(), SignatureCache()):
        assert read[-1] == block.header.number


def test_it_finds_every_good_signature_and_no_other() -> None:
    reader = Reader()
    block = recorded_blocks()[0]
    assert (
        list(reader.list_good(encode_block(block))) == []
    )  # nobody signs block 0, and its configuration names the nodes
    good = list(reader.list_good(encode_block(recorded_blocks()[1])))
    forged = decode_block(encode_block(recorded_blocks()[1]))
    data = forged.data.data[0]
    forged.data.data[0] = data[:-1] + bytes((data[-1] ^ 1,))
    assert len(good) > len(list(reader.list_good(encode_block(forged)))) > 0
    assert list(reader.list_good(b"no block")) == []
