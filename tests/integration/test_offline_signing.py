"""Signing elsewhere: requests that go out as bytes and come back with a signature, and callbacks that sign."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from fabric_protos.gateway import gateway_pb2

from blockfl.fabric.client.events import MemoryCheckpoint, Position
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.signable import FILTERED_BLOCKS
from blockfl.fabric.errors import BlockError, IdentityError
from blockfl.fabric.identity.callback import CallbackSigner
from blockfl.fabric.identity.signing import Signer, has_low_s, parse_ecdsa_signature, verify_signature
from support.scripted_peer import ScriptedPeer, scripted_peer

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
async def peer() -> AsyncIterator[ScriptedPeer]:
    async with scripted_peer() as one:
        yield one


@pytest.fixture
def signer(peer: ScriptedPeer) -> Signer:
    return peer.organisation.signer("agent")


@pytest.fixture
async def keyless(peer: ScriptedPeer, signer: Signer) -> AsyncIterator[Gateway]:
    """The service that talks to the gateway: it knows a certificate and no key."""
    async with Gateway(peer.endpoint, signer.identity, "fed") as one:
        yield one


def sign_digest(signer: Signer, digest: bytes) -> bytes:
    """As a token signs: the digest alone, and S as it comes."""
    key = signer.private_key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


def sign_high(signer: Signer, digest: bytes) -> bytes:
    """A signature with S in the upper half, as half of a token's are."""
    r, s = parse_ecdsa_signature(sign_digest(signer, digest))
    return utils.encode_dss_signature(r, max(s, ORDER - s))


async def test_a_transaction_goes_from_proposal_to_outcome_as_bytes(
    peer: ScriptedPeer, keyless: Gateway, signer: Signer
) -> None:
    made = keyless.new_proposal("app", "Put", "key", b"\xff", transient={"s": b"x"}, organisations=("alpha",))
    proposal = keyless.proposal_from(made.to_bytes()).signed(sign_high(signer, made.digest))
    endorsed = await keyless.proposal_from(proposal.to_bytes()).endorse()
    assert endorsed.transaction.args == (b"Put", b"key", b"\xff")
    transaction = keyless.transaction_from(endorsed.to_bytes()).signed(sign_high(signer, endorsed.digest))
    sent = await keyless.transaction_from(transaction.to_bytes()).submit()
    assert sent.result == b"result of Put"
    commit = keyless.commit_from(sent.to_bytes()).signed(sign_high(signer, sent.digest))
    status = await keyless.commit_from(commit.to_bytes()).read_status()
    assert (status.is_valid, status.block_number, status.transaction_id) == (True, 1, made.transaction_id)
    assert peer.endorsers_asked == [("alpha",)]
    assert peer.proposals[0].transient == {"s": b"x"}
    assert has_low_s(peer.proposals[0].signature)


async def test_an_evaluation_is_signed_elsewhere(keyless: Gateway, signer: Signer) -> None:
    proposal = keyless.new_proposal("app", "Get", "key")
    assert await proposal.signed(sign_digest(signer, proposal.digest)).evaluate() == b"Get|key"


async def test_nothing_unsigned_leaves_a_gateway_without_a_signer(peer: ScriptedPeer, keyless: Gateway) -> None:
    events, blocks = keyless.new_events("app").read(), keyless.new_blocks().read()
    for call in (
        lambda: keyless.new_proposal("app", "Get").evaluate(),
        lambda: keyless.new_proposal("app", "Put").endorse(),
        lambda: keyless.submit("app", "Put"),
        lambda: keyless.commit_status("00"),
        lambda: anext(events),
        lambda: anext(blocks),
        lambda: keyless.height(),
    ):
        with pytest.raises(IdentityError, match="expected a signer for alpha, got an identity alone"):
            await call()
    with pytest.raises(IdentityError, match="has its key at hand"):
        _ = keyless.signer
    assert peer.calls == []


async def test_events_are_asked_for_with_a_signature_made_elsewhere(
    peer: ScriptedPeer, keyless: Gateway, signer: Signer
) -> None:
    await peer.emit("a", "b", "c")
    checkpoint = MemoryCheckpoint()
    checkpoint.store(Position(block_number=1, transaction_id="tx1-0"))
    request = keyless.new_events("app", start_block=0, checkpoint=checkpoint)
    rebuilt = keyless.events_from(request.signed(sign_digest(signer, request.digest)).to_bytes())
    assert rebuilt.chaincode == "app"
    seen = rebuilt.read()
    assert [(await anext(seen)).name for _ in range(2)] == ["b", "c"]
    await seen.aclose()


async def test_blocks_are_asked_for_with_a_signature_made_elsewhere(
    peer: ScriptedPeer, keyless: Gateway, signer: Signer
) -> None:
    await peer.emit("a")
    request = keyless.new_blocks(start_block=1)
    rebuilt = keyless.blocks_from(request.signed(sign_digest(signer, request.digest)).to_bytes())
    blocks = rebuilt.read()
    assert (await anext(blocks)).header.number == 1
    await blocks.aclose()
    assert keyless.blocks_from(request.to_bytes(), FILTERED_BLOCKS).kind == FILTERED_BLOCKS


async def test_a_signer_signs_what_is_not_signed_yet(peer: ScriptedPeer, signer: Signer) -> None:
    async with Gateway(peer.endpoint, signer, "fed") as gateway:
        transaction = await gateway.new_proposal("app", "Put").endorse()
        commit = await transaction.submit()
        assert (await commit.read_status()).block_number == 1
        sent = await gateway.submit_async("app", "Put", "key")
        assert (sent.result, gateway.identity) == (b"result of Put", signer.identity)
        assert (await sent.read_status()).block_number == 2


async def ask(signer: Signer, digest: bytes) -> bytes:
    await asyncio.sleep(0)
    return sign_high(signer, digest)


@pytest.mark.parametrize("kind", ["function", "coroutine"])
async def test_a_callback_signs_everything(peer: ScriptedPeer, signer: Signer, kind: str) -> None:
    asked: list[bytes] = []

    def sign(digest: bytes) -> bytes:
        asked.append(digest)
        return sign_high(signer, digest)

    async def sign_later(digest: bytes) -> bytes:
        asked.append(digest)
        return await ask(signer, digest)

    await peer.emit("a")
    caller = CallbackSigner(signer.identity, sign if kind == "function" else sign_later)
    async with Gateway(peer.endpoint, caller, "fed") as gateway:
        assert await gateway.evaluate("app", "Get") == b"Get"
        assert (await gateway.submit("app", "Put")).block_number == 2
        async with gateway.events("app", start_block=0) as events:
            assert (await anext(events)).name == "a"
        assert (await anext(gateway.blocks(1))).header.number == 1
    assert len(asked) == 6
    assert {len(one) for one in asked} == {32}


@pytest.mark.parametrize(("hash_name", "size"), [("sha384", 48), ("sha3_256", 32), (None, 7)])
async def test_a_callback_gets_the_digest_it_wants(signer: Signer, hash_name: str | None, size: int) -> None:
    seen: list[bytes] = []
    caller = CallbackSigner(signer.identity, lambda asked: seen.append(asked) or b"?", hash_name)  # type: ignore[func-returns-value]
    assert await caller.request_signature(b"message") == b"?"
    expected = b"message" if hash_name is None else hashlib.new(hash_name, b"message").digest()
    assert (seen, len(expected)) == ([expected], size)


async def test_an_ed25519_key_signs_the_message_itself(peer: ScriptedPeer) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    identity = peer.organisation.signer("ed", key=key).identity
    signature = await CallbackSigner(identity, key.sign, None).request_signature(b"message")
    verify_signature(identity.public_key, signature, b"message")


def test_a_hash_that_does_not_exist_is_refused(signer: Signer) -> None:
    with pytest.raises(IdentityError, match="expected the name of a hash function"):
        CallbackSigner(signer.identity, lambda digest: digest, "sha1024")


async def test_what_a_callback_raises_reaches_the_caller(peer: ScriptedPeer, signer: Signer) -> None:
    def refuse(_: bytes) -> bytes:
        raise PermissionError("the operator said no")

    async with Gateway(peer.endpoint, CallbackSigner(signer.identity, refuse), "fed") as gateway:
        with pytest.raises(PermissionError, match="the operator said no"):
            await gateway.submit("app", "Put")
    assert peer.calls == []


@pytest.mark.parametrize("rebuild", ["proposal_from", "transaction_from", "commit_from", "events_from", "blocks_from"])
async def test_bytes_that_are_no_request_are_refused(keyless: Gateway, rebuild: str) -> None:
    method: Callable[[bytes], object] = getattr(keyless, rebuild)
    with pytest.raises(BlockError):
        method(b"\x0a\xff")


async def test_a_gateway_may_share_a_connection(peer: ScriptedPeer, signer: Signer) -> None:
    async with peer.endpoint.open_channel() as connection:
        for channel in ("fed", "other"):
            async with Gateway(peer.endpoint, signer, channel, connection=connection) as gateway:
                assert await gateway.evaluate("app", "Get") == b"Get"
        assert [one.channel for one in peer.proposals] == ["fed", "other"]


def test_the_bytes_are_those_of_the_official_clients(peer: ScriptedPeer, signer: Signer) -> None:
    proposal = Gateway(peer.endpoint, signer.identity, "fed").new_proposal("app", "Put", organisations=("alpha",))
    message = gateway_pb2.ProposedTransaction.FromString(proposal.to_bytes())
    assert message.transaction_id == proposal.transaction_id
    assert list(message.endorsing_organizations) == ["alpha"]
    assert hashlib.sha256(message.proposal.proposal_bytes).digest() == proposal.digest
