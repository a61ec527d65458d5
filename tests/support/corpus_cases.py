"""The cases of the corpus: transactions changed in every part and every encoding, each made from its kind and number.

What is inside a changed part is signed and hashed again, so that this part is judged and not the signature around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any, Final

from fabric_protos.common import common_pb2
from fabric_protos.msp import identities_pb2
from fabric_protos.peer import proposal_pb2, proposal_response_pb2, transaction_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.der import BIT_STRING, SEQUENCE, DerReader, encode_element
from blockfl.fabric.encoding.pem import decode_pem
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import BlockError
from blockfl.fabric.transaction.rwset import (
    CollectionReadWriteSet,
    HashedMetadataWrite,
    HashedRead,
    HashedWrite,
    MetadataWrite,
    NamespaceReadWriteSet,
    RangeQuery,
    Read,
    Version,
    Write,
    decode_read_write_set,
)
from blockfl.fabric.validate import summarise_reads
from support.corpus_world import FixedSigner, corpus_config, corpus_organisations, pem_of
from support.der_mutation import mutate_der
from support.pem_mutation import mutate_pem
from support.rich_certificates import fixed_key
from support.scratch_ledger import (
    MAJORITY,
    ScratchLedger,
    definition_values,
    digest,
    event,
    key_policy,
    own_policy,
    serialized,
    writes,
)
from support.wire_mutation import mutate_wire

SEEDS: Final = {f"seed{index}": b"value" for index in range(40)}
"""Keys that all cases may read; nobody writes them."""
COUNTS: Final = {
    "plain": 40,
    "part": 6000,
    "results": 1400,
    "creator": 500,
    "creator text": 700,
    "creator certificate": 1700,
    "endorser": 300,
    "endorser text": 250,
    "endorser certificate": 400,
    "signature": 300,
}
_PARTS: Final = (
    *("extension", "channel_header", "signature_header", "proposal_payload", "action", "response", "signed_response"),
    *("endorsed", "action_header", "transaction", "payload"),
)
_READ: Final = tuple(Read(key=key, version=Version(3, 0)) for key in sorted(SEEDS))
_COLLECTIONS: Final[Mapping[str, set[str]]] = {"app": {"sealed", "notes"}, "other": set(), "_lifecycle": set()}
_POLICY: Final = (("VALIDATION_PARAMETER", key_policy(1, "delta")),)


def set_up() -> Sequence[bytes]:
    """The transactions of the blocks before the first case: two contracts, and what can be read."""
    app = definition_values("app", collections={"sealed": own_policy(2, "alpha", "beta"), "notes": b""})
    return (
        _craft(Random(1), [writes("_lifecycle", **app)], chaincode="_lifecycle"),
        _craft(Random(2), [writes("_lifecycle", **definition_values("other"))], chaincode="_lifecycle"),
        _craft(Random(3), [writes("app", **SEEDS)]),
    )


def make_case(kind: str, number: int) -> bytes:
    """The envelope of a case."""
    for attempt in range(100):
        random = Random(f"{kind} {number} {attempt}")
        envelope = _MAKERS[kind](random)
        if not stops_peers(envelope):
            return envelope
    raise AssertionError(f"no case {kind} {number} that peers survive")


def stops_peers(encoded: bytes) -> bool:
    """Whether Fabric's own peers might not survive a transaction, so that it can't be a case."""
    try:
        payload = parse(common_pb2.Payload, parse(common_pb2.Envelope, encoded).payload)
        if not payload.HasField("header"):
            return True
        if parse(common_pb2.ChannelHeader, payload.header.channel_header).type == common_pb2.CONFIG:
            return True
        (action,) = parse(transaction_pb2.Transaction, payload.data).actions
        endorsed = parse(transaction_pb2.ChaincodeActionPayload, action.payload)
        if not endorsed.HasField("action"):
            return True
        response = parse(proposal_response_pb2.ProposalResponsePayload, endorsed.action.proposal_response_payload)
        results = decode_read_write_set(parse(proposal_pb2.ChaincodeAction, response.extension).results)
    except (DecodeError, BlockError, ValueError):
        return False
    changes_policy = any(
        namespace.metadata_writes or any(one.metadata_writes for one in namespace.collections)
        for namespace in results.namespaces
    )
    return (changes_policy and len(results.namespaces) > 1) or any(
        one.collection not in _COLLECTIONS.get(namespace.namespace, set())
        for namespace in results.namespaces
        for one in namespace.collections
    )


def _plain(random: Random) -> bytes:
    return _craft(random, _results(random))


def _part(random: Random) -> bytes:
    name = random.choice(_PARTS)
    return _craft(random, _results(random), **{name: lambda part: mutate_wire(random, serialized(part))})


def _in_results(random: Random) -> bytes:
    return _craft(random, _results(random), results=lambda part: mutate_wire(random, part))


def _creator(random: Random) -> bytes:
    signer = _client()
    return _craft(random, _results(random), creator=signer.under(mutate_wire(random, signer.identity.serialized)))


def _creator_text(random: Random) -> bytes:
    return _craft(random, _results(random), creator=_client().under(_identity(mutate_pem(random, _der_of(_client())))))


def _creator_certificate(random: Random) -> bytes:
    return _craft(random, _results(random), creator=_client().under(_identity(_changed_certificate(random, "client"))))


def _endorser(random: Random) -> bytes:
    return _endorsed_by(random, mutate_wire(random, _peer().identity.serialized))


def _endorser_text(random: Random) -> bytes:
    return _endorsed_by(random, _identity(mutate_pem(random, _der_of(_peer()))))


def _endorser_certificate(random: Random) -> bytes:
    return _endorsed_by(random, _identity(_changed_certificate(random, "peer")))


def _signature(random: Random) -> bytes:
    def creator(envelope: Any) -> None:
        envelope.signature = mutate_der(random, envelope.signature)

    def endorser(endorsements: list[Any]) -> None:
        endorsements[0].signature = mutate_der(random, endorsements[0].signature)

    if random.random() < 0.5:
        return _craft(random, _results(random), envelope=creator)
    return _craft(random, _results(random), endorsements=endorser)


_MAKERS: Final[Mapping[str, Callable[[Random], bytes]]] = {
    "plain": _plain,
    "part": _part,
    "results": _in_results,
    "creator": _creator,
    "creator text": _creator_text,
    "creator certificate": _creator_certificate,
    "endorser": _endorser,
    "endorser text": _endorser_text,
    "endorser certificate": _endorser_certificate,
    "signature": _signature,
}


def _craft(random: Random, namespaces: Sequence[NamespaceReadWriteSet], **settings: Any) -> bytes:
    endorsers = [corpus_organisations()[name].signer("peer0", "peer") for name in MAJORITY]
    if random.random() < 0.15 and "chaincode" not in settings:
        settings["event"] = event()
    settings.setdefault("creator", _client())
    return ScratchLedger(corpus_config()).craft(namespaces, endorsers=endorsers, nonce=random.randbytes(24), **settings)


def _results(random: Random) -> list[NamespaceReadWriteSet]:
    """A read/write set of a valid transaction, of one of many forms.

    Public keys are read in one contract and written in the other, so that no case changes what another one reads.
    """
    own = random.randbytes(4).hex()
    key = f"k{own}"
    sets = {
        "writes": NamespaceReadWriteSet(namespace="other", writes=(Write(key=key, value=b"v"), Write(key=key + "x"))),
        "reads": NamespaceReadWriteSet(namespace="app", reads=(*_READ[:2], Read(key=key, version=None))),
        "ranges": NamespaceReadWriteSet(
            namespace="app",
            range_queries=(
                RangeQuery(start_key="seed", end_key="seed1", exhausted=True, reads=_READ[:1]),
                RangeQuery(
                    start_key="seed",
                    end_key="seee",
                    exhausted=True,
                    summary=summarise_reads([(read.key, Version(3, 0)) for read in _READ], 2),
                ),
            ),
        ),
        "policies": NamespaceReadWriteSet(
            namespace="other",
            writes=(Write(key=key, value=b"v"),),
            metadata_writes=(MetadataWrite(key=key, entries=_POLICY),),
        ),
        "private": NamespaceReadWriteSet(namespace="app", collections=(_private(own), _sealed(own))),
    }
    chosen = [sets[random.choice(list(sets))]]
    if random.random() < 0.4 and chosen[0].namespace == "app" and not chosen[0].collections:
        chosen.append(writes("other", **{key: b"v"}))
    return chosen


def _private(own: str) -> CollectionReadWriteSet:
    return CollectionReadWriteSet(
        collection="notes",
        reads=(HashedRead(key_hash=digest("nothing"), version=None),),
        writes=(HashedWrite(key_hash=digest(own), value_hash=digest("value")),),
        private_hash=digest(f"set {own}"),
    )


def _sealed(own: str) -> CollectionReadWriteSet:
    return CollectionReadWriteSet(
        collection="sealed",
        writes=(HashedWrite(key_hash=digest(own), value_hash=digest("value")),),
        metadata_writes=(HashedMetadataWrite(key_hash=digest(own), entries=_POLICY),),
        private_hash=digest(f"sealed {own}"),
    )


def _client() -> FixedSigner:
    return corpus_organisations()["alpha"].signer("user", "client")


def _peer() -> FixedSigner:
    return corpus_organisations()["alpha"].signer("peer0", "peer")


def _identity(pem: bytes) -> bytes:
    return bytes(identities_pb2.SerializedIdentity(mspid="alpha", id_bytes=pem).SerializeToString())


def _der_of(signer: FixedSigner) -> bytes:
    block = decode_pem(signer.identity.certificate_pem)
    assert block is not None
    return block.content


def _endorsed_by(random: Random, identity: bytes) -> bytes:
    """A transaction whose first endorser is encoded so; without it the policy is not satisfied."""
    signed: list[bytes] = []

    def change(endorsements: list[Any]) -> None:
        signature = _peer().sign(signed[0] + identity)
        endorsements[0] = proposal_response_pb2.Endorsement(endorser=identity, signature=signature)

    return _craft(random, _results(random), signed_response=lambda part: signed.append(part), endorsements=change)


def _changed_certificate(random: Random, unit: str) -> bytes:
    """A member's certificate with something changed before its authority signed it, or, seldom, after."""
    signed, algorithm = _parts_of(unit, random.random() < 0.6)
    if random.random() < 0.1:
        whole = encode_element(
            SEQUENCE, signed + algorithm + encode_element(BIT_STRING, b"\x00" + _authority_signs(signed))
        )
        return pem_of(mutate_der(random, whole))
    changed = mutate_der(random, signed, random.choice((1, 1, 1, 2)))
    signature = _authority_signs(changed)
    if random.random() < 0.1:
        signature = mutate_der(random, signature)
    return pem_of(_assemble(changed, algorithm, signature))


def _assemble(signed: bytes, algorithm: bytes, signature: bytes) -> bytes:
    return encode_element(SEQUENCE, signed + algorithm + encode_element(BIT_STRING, b"\x00" + signature))


@cache
def _parts_of(unit: str, has_all: bool) -> tuple[bytes, bytes]:
    name = "user" if unit == "client" else "peer0"
    block = decode_pem(corpus_organisations()["alpha"].issue(name, unit, has_all=has_all))
    assert block is not None
    reader = DerReader(DerReader(block.content).read(SEQUENCE))
    return reader.read(SEQUENCE, whole=True), reader.read(SEQUENCE, whole=True)


def _authority_signs(content: bytes) -> bytes:
    signer = FixedSigner(_client().identity, fixed_key("ca.alpha"))
    return signer.sign(content)
