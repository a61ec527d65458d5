"""How an update is sealed and signed: broken, copied, replayed, sealed to somebody else."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from attacks.bout import Bout, Forgery
from attacks.catalogue import Outcome, attack, refused, rejected, succeeded
from attacks.observation import attempt, attempt_all
from attacks.terms import LONG
from blockfl.fabric.identity.signing import CURVE_ORDERS, create_private_key
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Header, SignedHeader, WrappedKey
from blockfl.protocol.seal import PLAIN_CHUNK_BYTES, encode_public_key
from blockfl.protocol.submission import sign_header, signing_bytes


def flip(data: bytes, index: int) -> bytes:
    """Return bytes with one bit turned over."""
    changed = bytearray(data)
    changed[index] ^= 1
    return bytes(changed)


def rewrap(header: Header, member: str, wrapped: WrappedKey) -> Header:
    """Return a header with another wrapped key for one member."""
    keys = tuple(wrapped if one.organisation == member else one for one in header.wrapped_keys)
    return header.model_copy(update={"wrapped_keys": keys})


def wrap_of(header: Header, member: str) -> WrappedKey:
    """Return the wrapped key for one member."""
    return next(one for one in header.wrapped_keys if one.organisation == member)


# Chunks


@attack(
    "bit-flipped chunk",
    by="institution",
    does="Turns one bit of the ciphertext over and announces the digest of that.",
    expect=rejected(Code.SEAL_BROKEN),
)
async def flipped(bout: Bout) -> Outcome:
    await bout.open()
    forgery = await bout.seal()
    return await bout.send(forgery.replace(flip(forgery.chunks[0], 11)))


@attack(
    "truncated chunk",
    by="institution",
    does="Leaves the end of the ciphertext away and announces the digest of the rest.",
    expect=rejected(Code.SEAL_BROKEN),
)
async def truncated(bout: Bout) -> Outcome:
    await bout.open()
    forgery = await bout.seal()
    return await bout.send(forgery.replace(forgery.chunks[0][:-3]))


@attack(
    "oversize chunk",
    by="institution",
    does="Hangs a kilobyte on to the ciphertext; then sends a chunk that is larger than chunks may be.",
    expect=(rejected(Code.SEAL_BROKEN), refused(Code.CHUNK_SIZE)),
)
async def oversize(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    forgery = await bout.seal()
    verdict = await bout.send(forgery.replace(forgery.chunks[0] + bytes(1024)))
    return verdict, await attempt(bout.upload(bytes(4 * 2**20 + 1)))


@attack(
    "empty chunk",
    by="institution",
    does="Announces an empty chunk and uploads it.",
    expect=refused(Code.CHUNK_SIZE),
)
async def empty(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True)
    forgery = (await bout.seal()).replace(b"")
    await bout.submit(forgery.header)
    outcome = await attempt(bout.upload(*forgery.chunks))
    bout.excluded.add("delta")
    return outcome


@attack(
    "other chunk than announced",
    by="institution",
    does="Signs one ciphertext and uploads another, then one under an index that it did not announce.",
    expect=refused(Code.CHUNK_MISMATCH),
)
async def unannounced(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    await bout.scenario.submit("delta", bout.number)
    (chunk,) = bout.scenario.sealed[bout.number, "delta"][1]
    return await attempt_all(bout.upload(flip(chunk, 0)), bout.upload(chunk, first=1))


@attack(
    "swapped chunks",
    by="institution",
    does="Exchanges the two chunks of a long update, equally long, and announces them in that order.",
    expect=rejected(Code.SEAL_BROKEN),
    terms=LONG,
)
async def swapped(bout: Bout) -> Outcome:
    await bout.open()
    forgery = await bout.seal()
    first, second = forgery.chunks
    assert len(first) == len(second) == PLAIN_CHUNK_BYTES + 16
    bout.forsake()
    return await bout.send(forgery.replace(second, first))


# Keys


@attack(
    "wrong wrap for one member",
    by="institution",
    does="Spoils the key that it wraps for the regulator, so that this member alone could not open the update.",
    expect=rejected(Code.WRAP_WRONG),
)
async def wrong_wrap(bout: Bout) -> Outcome:
    await bout.open()
    forgery = await bout.seal()
    good = wrap_of(forgery.header, "regulator")
    bad = good.model_copy(update={"ciphertext": flip(bytes.fromhex(good.ciphertext), 20).hex()})
    return await bout.send(Forgery(rewrap(forgery.header, "regulator", bad), forgery.chunks))


@attack(
    "wrong wrap denied",
    by="institution",
    does="Spoils the regulator's wrap and says that the regulator lies; the university shows the key of its own wrap.",
    expect=(Outcome("recorded", "claim upheld"), rejected(Code.WRAP_WRONG)),
)
async def wrap_denied(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    forgery = await bout.seal()
    good = wrap_of(forgery.header, "regulator")
    bad = rewrap(forgery.header, "regulator", good.model_copy(update={"ciphertext": "00" * 48}))
    await bout.submit(bad)
    await bout.upload(*forgery.chunks)
    await bout.claim_wrap("regulator")
    await bout.settle_claim("regulator", "university", bout.scenario.ephemeral_key("delta", "university", bout.number))
    return await bout.read_claim(), await bout.judge()


@attack(
    "wrap of another update for one member",
    by="institution",
    does="Wraps to the regulator a good key, that of another sealing of the same values.",
    expect=rejected(Code.WRAP_WRONG),
)
async def foreign_wrap(bout: Bout) -> Outcome:
    await bout.open()
    forgery, other = await bout.seal(), await bout.seal(salt=1)
    header = rewrap(forgery.header, "regulator", wrap_of(other.header, "regulator"))
    return await bout.send(Forgery(header, forgery.chunks))


@attack(
    "sealed to a key of its own",
    by="institution",
    does="Puts a key of its own in the regulator's place, or leaves the regulator out.",
    expect=refused(Code.HEADER_RECIPIENTS),
)
async def own_key(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    forgery = await bout.seal()
    own = encode_public_key(X25519PrivateKey.from_private_bytes(b"d" * 32))
    wrapped = wrap_of(forgery.header, "regulator").model_copy(update={"public_key": own})
    without = tuple(one for one in forgery.header.wrapped_keys if one.organisation != "regulator")
    return await attempt_all(
        bout.submit(rewrap(forgery.header, "regulator", wrapped)),
        bout.submit(forgery.change(wrapped_keys=without).header),
    )


@attack(
    "wrong key commitment",
    by="institution",
    does="Commits to another data key than it wraps, to show two plaintexts for one ciphertext later.",
    expect=rejected(Code.KEY_COMMITMENT),
)
async def key_commitment(bout: Bout) -> Outcome:
    await bout.open()
    other = await bout.seal(salt=1)
    return await bout.send((await bout.seal()).change(key_commitment=other.header.key_commitment))


@attack(
    "wrong payload digest",
    by="institution",
    does="Signs the digest of another payload than it seals.",
    expect=rejected(Code.PAYLOAD_DIGEST),
)
async def payload_digest(bout: Bout) -> Outcome:
    await bout.open()
    return await bout.send((await bout.seal()).change(payload_digest="ab" * 32))


@attack(
    "commitment to another update",
    by="institution",
    does="Signs the commitment to other values than it seals, so that the public check of the sum would fail.",
    expect=rejected(Code.COMMITMENT),
)
async def commitment(bout: Bout) -> Outcome:
    await bout.open()
    other = await bout.seal(values=-bout.learnt())
    return await bout.send((await bout.seal()).change(commitment_digest=other.header.commitment_digest))


@attack(
    "no commitment",
    by="institution",
    does="Signs no commitment in a task that wants one.",
    expect=refused(Code.COMMITMENT),
)
async def no_commitment(bout: Bout) -> Outcome:
    await bout.open()
    return await attempt(bout.send((await bout.seal()).change(commitment_digest=None)))


# Copies and replays


@attack(
    "copied ciphertext",
    by="institution",
    does="Signs alpha's sealed update as its own, with the ciphertext that an indiscreet committee member gave it.",
    expect=rejected(Code.WRAP_WRONG),
)
async def copied(bout: Bout) -> Outcome:
    await bout.open()
    await bout.contribute("alpha")
    signed, chunks, _ = bout.scenario.sealed[bout.number, "alpha"]
    return await bout.send(Forgery(disguise(signed.header, (await bout.seal()).header), chunks))


@attack(
    "ciphertext of an earlier round",
    by="institution",
    does="Signs for this round what it sealed for the last one.",
    expect=rejected(Code.WRAP_WRONG),
)
async def earlier_round(bout: Bout) -> Outcome:
    earlier = await bout.play_before()
    await bout.open()
    signed, chunks, _ = earlier.scenario.sealed[earlier.number, "delta"]
    return await bout.send(Forgery(disguise(signed.header, (await bout.seal()).header), chunks))


@attack(
    "ciphertext of another task",
    by="institution",
    does="Signs for this task what it sealed for another one.",
    expect=rejected(Code.WRAP_WRONG),
)
async def other_task(bout: Bout) -> Outcome:
    await bout.open()
    elsewhere = await bout.arena.begin_anew(bout.terms)
    await elsewhere.open()
    sealed = await elsewhere.seal()
    return await bout.send(Forgery(disguise(sealed.header, (await bout.seal()).header), sealed.chunks))


def disguise(copied: Header, own: Header) -> Header:
    """Return a header of one's own with everything in it that says what is sealed taken from another one."""
    fields = ("payload_digest", "chunk_digests", "wrapped_keys", "key_commitment", "commitment_digest")
    return own.model_copy(update={name: getattr(copied, name) for name in fields})


@attack(
    "replay from another round",
    by="institution",
    does="Submits its header of the last round once more, then the same with this round's number on the old signature.",
    expect=(refused("nothing to order"), refused(Code.HEADER_BASE)),
)
async def replayed_round(bout: Bout) -> tuple[Outcome, ...]:
    earlier = await bout.play_before()
    await bout.open()
    signed = earlier.scenario.sealed[earlier.number, "delta"][0]
    endorsed = await bout.arena.endorse("delta", "SubmitUpdate", signed.encode())
    renumbered = SignedHeader(
        header=signed.header.model_copy(update={"round": bout.number}), signature=signed.signature
    )
    same = refused("nothing to order") if endorsed.event is None else succeeded("submitted again")
    return same, await attempt(bout.submit(renumbered))


@attack(
    "replay from another task",
    by="institution",
    does="Submits its header of another task again, then as one of this task's round with the old signature.",
    expect=(refused("nothing to order"), refused(Code.SIGNATURE)),
)
async def replayed_task(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    elsewhere = await bout.arena.begin_anew(bout.terms)
    await elsewhere.open()
    signed = elsewhere.sign((await elsewhere.seal()).header)
    await elsewhere.submit(signed)
    endorsed = await bout.arena.endorse("delta", "SubmitUpdate", signed.encode())
    arrived = endorsed.event is not None or "delta" in await bout.list_updates()
    same = succeeded("it counts in this task") if arrived else refused("nothing to order")
    # All else is alike in the two tasks, and would be refused before the signature is looked at if it were not.
    own = {"task": bout.task, "round": bout.number, "base_digest": bout.round.base_digest}
    renamed = SignedHeader(header=signed.header.model_copy(update=own), signature=signed.signature)
    return same, await attempt(bout.submit(renamed))


@attack(
    "old signature under a new header",
    by="institution",
    does="Makes the last round's header one of this round in every field and leaves the old signature under it.",
    expect=refused(Code.SIGNATURE),
)
async def old_signature(bout: Bout) -> Outcome:
    earlier = await bout.play_before()
    await bout.open()
    signed = earlier.scenario.sealed[earlier.number, "delta"][0]
    return await attempt(bout.submit(SignedHeader(header=(await bout.seal()).header, signature=signed.signature)))


@attack(
    "replay from another network, channel or contract",
    by="institution",
    does="Submits a header that it signed for another network, channel or contract.",
    expect=refused(Code.HEADER_NETWORK),
)
async def replayed_channel(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    forgery = await bout.seal()
    return await attempt_all(
        *(bout.submit(forgery.change(**{field: "other"}).header) for field in ("network", "channel", "contract"))
    )


# Signatures


@attack(
    "wrong key",
    by="institution",
    does="Signs the header with a key that it has not enrolled.",
    expect=refused(Code.SIGNATURE),
)
async def wrong_key(bout: Bout) -> Outcome:
    await bout.open()
    key = create_private_key()
    signed = sign_header((await bout.seal()).header, lambda message: key.sign(message, ec.ECDSA(SHA256())))
    return await attempt(bout.submit(signed))


@attack(
    "malleable signature",
    by="institution",
    does="Turns its signature into the other valid one of ECDSA, that with the high S, and into longer DER.",
    expect=refused(Code.SIGNATURE),
)
async def malleable(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    signed = bout.sign((await bout.seal()).header)
    r, s = decode_dss_signature(bytes.fromhex(signed.signature))
    high = encode_dss_signature(r, CURVE_ORDERS["secp256r1"] - s).hex()
    return await attempt_all(
        *(bout.submit(SignedHeader(header=signed.header, signature=one)) for one in (high, signed.signature + "00"))
    )


@attack(
    "signature over the bare header",
    by="institution",
    does="Signs the header without the prefix that separates updates from everything else that is signed.",
    expect=refused(Code.SIGNATURE),
)
async def bare_header(bout: Bout) -> Outcome:
    await bout.open()
    signer = bout.scenario.signers["delta"]
    header = (await bout.seal()).header
    assert signing_bytes(header) != header.encode()
    return await attempt(bout.submit(SignedHeader(header=header, signature=signer.sign(header.encode()).hex())))


@attack(
    "equivocation",
    by="institution",
    does="Signs a second, different update for the same round after the first was accepted.",
    expect=Outcome("recorded", Code.EQUIVOCATION.identifier),
)
async def equivocation(bout: Bout) -> Outcome:
    await bout.open()
    await bout.contribute("delta")
    await bout.submit((await bout.seal(salt=1)).header)
    bout.excluded.add("delta")
    return await bout.read_equivocation()
