"""Evidence in a file: every byte of it counts, and what a liar packs anew the chain itself gives away."""

from __future__ import annotations

import random
import re
import tarfile
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
from fabric_protos.common import common_pb2
from typer.testing import CliRunner, Result

from blockfl.audit.bundle import MANIFEST, Bundle, BundleChain, BundleWriter
from blockfl.audit.errors import VerificationError
from blockfl.audit.export import find_fork
from blockfl.audit.verification import VerificationReport, read_chain, verify_bundles
from blockfl.cli.main import app
from blockfl.fabric.channel.block import encode_block, header_hash
from blockfl.ledger.errors import LedgerError
from support.recording import recorded_block_bytes, recorded_blocks

ANCHOR = header_hash(recorded_blocks()[0].header)
LAST = header_hash(recorded_blocks()[-1].header).hex()
BLOCKS, SAMPLED = 10, 2500
DEFINED = 25
"""After so many blocks the contract's definition is in force."""


def pack(
    path: Path,
    blocks: Sequence[bytes],
    *,
    first: int = 0,
    previous: str = "",
    last: str = LAST,
    channel: str = "fed",
    contract: str = "app",
) -> Path:
    """A bundle of these blocks, as honest or dishonest as they are."""
    with BundleWriter(path) as writer:
        for number, block in enumerate(blocks, start=first):
            writer.add_block(number, block)
        writer.add_payload(b"a model")
        writer.finish(channel=channel, contract=contract, first_block=first, previous_hash=previous, last_hash=last)
    return path


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("evidence") / "honest.bundle", recorded_block_bytes())


async def verify(*paths: Path, **options: Any) -> VerificationReport:
    return await verify_bundles(paths, ANCHOR, lambda _: None, **options)


async def test_the_ledger_of_real_peers_verifies_from_the_file_alone(honest: Path) -> None:
    report = await verify(honest, expected_hash=LAST)
    assert report.blocks == len(recorded_blocks())
    assert report.last_block_hash == LAST
    assert len(report.steps) == 16


async def test_it_looks_no_further_than_it_is_told(honest: Path) -> None:
    report = await verify(honest, until=20, expected_hash=header_hash(recorded_blocks()[20].header).hex())
    assert report.blocks == 21
    with pytest.raises(VerificationError, match="ends with block"):
        await verify(honest, until=len(recorded_blocks()))


def test_the_same_content_gives_the_same_bytes_and_any_tar_reads_them(honest: Path, tmp_path: Path) -> None:
    again = pack(tmp_path / "again.bundle", recorded_block_bytes())
    assert again.read_bytes() == honest.read_bytes()
    with tarfile.open(honest) as archive:
        names = archive.getnames()
        assert names[0] == "blocks/0000000000.block"
        assert names[-1] == "manifest.json"
        member = archive.extractfile(names[0])
        assert member is not None
        assert member.read() == recorded_block_bytes()[0]


def test_every_changed_byte_is_found_and_its_place_is_named(tmp_path: Path) -> None:
    last = header_hash(recorded_blocks()[BLOCKS - 1].header).hex()
    small = pack(tmp_path / "small.bundle", recorded_block_bytes()[:BLOCKS], last=last)
    content = bytearray(small.read_bytes())
    generator = random.Random(17)
    with tarfile.open(small) as archive:
        members = archive.getmembers()
    starts = [one.offset for one in members]
    subject = find_subject(bytes(content[members[-1].offset_data :]))
    edges = [0, 100, 148, 156, 257, 329, 345, 500, 511, 512, len(content) - 1, len(content) - 1024, len(content) - 1500]
    headers = [generator.choice(starts) + generator.randrange(512) for _ in range(250)]
    manifest = [generator.randrange(members[-1].offset, len(content)) for _ in range(250)]
    positions = sorted({*edges, *headers, *manifest, *generator.sample(range(len(content)), SAMPLED)})
    assert len(positions) > SAMPLED
    damaged = tmp_path / "damaged.bundle"
    damaged.write_bytes(content)
    with damaged.open("r+b") as file:
        for position in positions:
            _put(file, position, content[position] ^ 1 << generator.randrange(8))
            member = members[bisect_right(starts, position) - 1]
            if member.name == MANIFEST and position - member.offset_data in subject:
                _put(file, position, content[position])
                continue  # read on: what a manifest is about, only the whole chain shows
            with pytest.raises(VerificationError, match=r"damaged\.bundle") as caught:
                Bundle.open(damaged)
            is_named = member.name in str(caught.value) or f"at byte {member.offset}," in str(caught.value)
            # One digest in a manifest speaks against one file: that is the place where the two differ.
            assert is_named or member.name == MANIFEST, (position, member.name, str(caught.value))
            _put(file, position, content[position])


def find_subject(manifest: bytes) -> set[int]:
    """Where a manifest names its channel and its contract: the one thing that only the whole chain can deny."""
    found = [re.search(rb'"%s":"([^"]*)"' % name, manifest) for name in (b"channel", b"contract")]
    return {place for one in found if one is not None for place in range(*one.span(1))}


@pytest.mark.parametrize("about", [("fee", "app"), ("fed", "apq"), ("fed", ""), ("fed", "_lifecycle"), ("fed", "app")])
async def test_a_manifest_that_is_about_something_else_is_found(tmp_path: Path, about: tuple[str, str]) -> None:
    last = header_hash(recorded_blocks()[DEFINED - 1].header).hex()
    blocks = recorded_block_bytes()[:DEFINED]
    path = pack(tmp_path / "other.bundle", blocks, last=last, channel=about[0], contract=about[1])
    if about == ("fed", "app"):
        assert (await verify(path)).blocks == DEFINED
        return
    with pytest.raises(VerificationError, match=r"step 1, files: the manifest names the (channel|contract)"):
        await verify(path)


def _put(file: BinaryIO, position: int, byte: int) -> None:
    file.seek(position)
    file.write(bytes([byte]))
    file.flush()


@pytest.mark.parametrize("length", [0, 1, 511, 512, 5000, -1, -512, -1024, -1025, -2000])
def test_a_file_that_was_cut_off_is_found(honest: Path, tmp_path: Path, length: int) -> None:
    cut = tmp_path / "cut.bundle"
    cut.write_bytes(honest.read_bytes()[: length or None] if length else b"")
    with pytest.raises(VerificationError, match=r"cut\.bundle"):
        Bundle.open(cut)
    cut.write_bytes(honest.read_bytes() + b"\0")
    with pytest.raises(VerificationError, match="the bytes after manifest"):
        Bundle.open(cut)


def _leave_out(blocks: list[Any]) -> None:
    del blocks[30]


def _swap_blocks(blocks: list[Any]) -> None:
    blocks[30], blocks[31] = blocks[31], blocks[30]


def _reorder(blocks: list[Any]) -> None:
    block = next(one for one in blocks if len(one.data.data) > 1)
    envelopes = list(block.data.data)
    block.data.ClearField("data")
    block.data.data.extend(reversed(envelopes))


def _exchange_endorsement(blocks: list[Any]) -> None:
    block = blocks[40]
    block.data.data[0] = block.data.data[0][:-1] + bytes([block.data.data[0][-1] ^ 1])


def _turn_code(blocks: list[Any]) -> None:
    block = blocks[40]
    codes = bytearray(block.metadata.metadata[2])
    codes[0] = 11 if codes[0] == 0 else 0
    block.metadata.metadata[2] = bytes(codes)


def _strip_signatures(blocks: list[Any]) -> None:
    blocks[40].metadata.metadata[0] = b""


def _change_commit_hash(blocks: list[Any]) -> None:
    value = blocks[40].metadata.metadata[4]
    blocks[40].metadata.metadata[4] = value[:-1] + bytes([value[-1] ^ 1])


@pytest.mark.parametrize(
    "lie",
    [_leave_out, _swap_blocks, _reorder, _exchange_endorsement, _turn_code, _strip_signatures, _change_commit_hash],
    ids=lambda lie: lie.__name__,
)
async def test_what_a_liar_packs_anew_the_chain_gives_away(tmp_path: Path, lie: Callable[[list[Any]], None]) -> None:
    blocks = [common_pb2.Block.FromString(one) for one in recorded_block_bytes()]
    lie(blocks)
    path = pack(tmp_path / "lie.bundle", [encode_block(one) for one in blocks])
    with pytest.raises(VerificationError, match="block"):
        await verify(path)


async def test_a_chain_whose_end_was_cut_off_is_found_by_its_expected_hash(tmp_path: Path) -> None:
    short = recorded_block_bytes()[:-1]
    path = pack(tmp_path / "short.bundle", short, last=header_hash(recorded_blocks()[-2].header).hex())
    assert (await verify(path)).blocks == len(short)
    with pytest.raises(VerificationError, match="the evidence was cut off"):
        await verify(path, expected_hash=LAST)


async def test_another_first_block_is_another_ledger(honest: Path) -> None:
    with pytest.raises(VerificationError, match="another ledger than the one you pinned"):
        await verify_bundles([honest], bytes(32), lambda _: None)


def split(tmp_path: Path, at: int) -> tuple[Path, Path]:
    """The chain in two bundles, the later of which continues the earlier."""
    hash_before = header_hash(recorded_blocks()[at - 1].header).hex()
    earlier = pack(tmp_path / "earlier.bundle", recorded_block_bytes()[:at], last=hash_before)
    later = pack(tmp_path / "later.bundle", recorded_block_bytes()[at:], first=at, previous=hash_before)
    return earlier, later


async def test_bundles_that_continue_one_another_are_one_chain_in_any_order(tmp_path: Path) -> None:
    earlier, later = split(tmp_path, 50)
    assert (await verify(later, earlier, expected_hash=LAST)).blocks == len(recorded_blocks())
    with pytest.raises(VerificationError, match="name the bundle that it continues as well"):
        await verify(later)


async def test_bundles_of_two_chains_do_not_fit_together(tmp_path: Path) -> None:
    earlier, _ = split(tmp_path, 50)
    other = pack(tmp_path / "other.bundle", recorded_block_bytes()[50:], first=50, previous="0" * 64)
    with pytest.raises(VerificationError, match="continues another chain"):
        await verify(earlier, other)


def test_two_organisations_bundles_are_compared(honest: Path, tmp_path: Path) -> None:
    blocks = [common_pb2.Block.FromString(one) for one in recorded_block_bytes()]
    blocks[60].header.data_hash = bytes(32)
    forked = pack(tmp_path / "forked.bundle", [encode_block(one) for one in blocks])
    with Bundle.open(honest) as one, Bundle.open(forked) as other:
        assert find_fork(BundleChain([one]), BundleChain([one])) is None
        assert find_fork(BundleChain([one]), BundleChain([other])) == 60


def compare(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, ["audit", "compare", *map(str, arguments)])


def test_the_command_compares_bundles_whole_or_in_parts(honest: Path, tmp_path: Path) -> None:
    earlier, later = split(tmp_path, 50)
    done = compare(honest, earlier, "--second-more", later)
    assert (done.exit_code, done.output) == (
        0,
        f"one chain: all {len(recorded_blocks())} blocks that both bundles hold are the same\n",
    )
    blocks = [common_pb2.Block.FromString(one) for one in recorded_block_bytes()]
    blocks[60].header.data_hash = bytes(32)
    forked = pack(tmp_path / "forked.bundle", [encode_block(one) for one in blocks])
    error = compare(forked, earlier, "--second-more", later).exception
    assert isinstance(error, VerificationError)
    assert error.block == 60
    assert "the same before block 60, and differ from there on" in str(error)


@pytest.fixture
def peer() -> Any:
    """A peer that has the recorded ledger."""

    async def blocks(start: int) -> AsyncIterator[Any]:
        for block in recorded_blocks()[start:]:
            yield block

    async def height() -> int:
        return len(recorded_blocks())

    gateway = SimpleNamespace(height=height, blocks=blocks)
    return SimpleNamespace(gateway=gateway, profile=SimpleNamespace(contract="app"), signer=None)


async def test_a_peer_that_keeps_its_end_back_is_found_too(peer: Any) -> None:
    there = header_hash(recorded_blocks()[5].header).hex()
    chain = await read_chain(peer, ANCHOR, lambda _: None, until=5, expected_hash=there)
    assert chain.blocks == 6
    with pytest.raises(VerificationError, match=r"block 5: .* the peer's ledger was cut off, or tells of another"):
        await read_chain(peer, ANCHOR, lambda _: None, until=5, expected_hash=LAST)
    with pytest.raises(VerificationError, match="the peer's ledger ends with block"):
        await read_chain(peer, ANCHOR, lambda _: None, until=len(recorded_blocks()))


async def test_a_payload_is_found_by_its_digest_or_missed_by_name(honest: Path) -> None:
    with Bundle.open(honest) as bundle:
        digest = bundle.manifest.payloads[0]
        evidence = BundleChain([bundle])
        assert await evidence.read_model_chunk("heart", digest) == b"a model"
        with pytest.raises(VerificationError, match="no bundle holds the payload"):
            await evidence.read_model_chunk("heart", "0" * 64)


def test_a_bundle_is_written_whole_or_not_at_all(honest: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="exists already"), BundleWriter(honest):
        pass

    def fail() -> None:
        with BundleWriter(tmp_path / "broken.bundle") as writer:
            writer.add_block(0, b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 512, bytes(1024), b"PK\x03\x04" + bytes(508)])
def test_another_file_is_no_bundle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(VerificationError, match="or is none"):
        Bundle.open(path)
