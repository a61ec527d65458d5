"""Transactions that one member can send so that an auditor judges them otherwise than peers: one for each kind.

Every part is changed before what is around it is hashed and signed, so that the part is judged. All of them can be
ordered, and peers survive all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from fabric_protos.peer import chaincode_pb2, proposal_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.encoding.protobuf import MAX_DEPTH
from blockfl.fabric.encoding.wire import encode_bytes, encode_varint
from blockfl.fabric.identity.authority import Unit
from blockfl.fabric.identity.policy import role_principal
from blockfl.fabric.identity.signing import Identity, Signer
from blockfl.fabric.transaction.rwset import NamespaceReadWriteSet, Read
from support.broken_transactions import high_s
from support.corpus_cases import stops_peers
from support.corpus_world import FixedSigner
from support.der_mutation import mutate_der
from support.odd_certificates import ODD, issue_odd
from support.organisation import Organisation
from support.scratch_ledger import ScratchLedger, serialized
from support.wire_mutation import mutate_wire, pad_varint

NUMBER: Final = 1000
"""A field that no message has."""
HIGH_S: Final = "a signature in high S"
_SIBLINGS: Final = 60
_UNREAD: Final = ("extension", "transaction", "endorsed", "response", "action")
"""Parts that ordering nodes do not look into."""
_ROLES: Final[tuple[tuple[Unit, str], ...]] = (("peer", "endorser"), ("client", "creator"))
_OPEN, _CLOSE = encode_varint(NUMBER << 3 | 3), encode_varint(NUMBER << 3 | 4)
Change = Callable[[bytes], bytes]


def nest(depth: int) -> bytes:
    return _OPEN * depth + _CLOSE * depth


def nest_policy(msp_id: str, depth: int) -> bytes:
    """A signature policy of any member of an organisation (common.SignaturePolicyEnvelope), so many levels deep."""
    rule = b"\x08\x00"
    for _ in range(depth):
        rule = encode_bytes(2, b"\x08\x01" + encode_bytes(2, rule))
    return encode_bytes(2, rule) + encode_bytes(3, role_principal(msp_id, "member").SerializeToString())


APPENDED: Final[Mapping[str, tuple[bytes, bool]]] = {
    "groups nested 101 deep": (nest(101), True),
    "groups nested 5 000 deep": (nest(5_000), True),
    "groups nested too deep": (nest(MAX_DEPTH + 2), False),
    "a tag padded to six bytes": (pad_varint(15 << 3, 6) + b"\x01", True),
    "a tag padded to ten bytes": (pad_varint(15 << 3, 10) + b"\x01", True),
    "a value padded to ten bytes": (encode_varint(15 << 3) + pad_varint(3, 10), True),
    "a varint whose tenth byte overflows": (encode_varint(15 << 3) + b"\x80" * 9 + b"\x02", False),
    "a varint of eleven bytes": (encode_varint(15 << 3) + b"\x80" * 10 + b"\x00", False),
    "a group that does not end": (_OPEN, False),
    "a group that another one ends": (_OPEN + encode_varint(NUMBER + 1 << 3 | 4), False),
    "an end without a group": (_CLOSE, False),
    "field number 0": (b"\x00\x00", False),
    "a field number of 30 bits": (encode_varint(1 << 29 << 3) + b"\x00", False),
    "wire type 6": (b"\x7e\x00", False),
    "a field that is cut off": (encode_varint(15 << 3 | 2) + b"\x05x", False),
}
"""What follows a message, and whether Go takes it."""
_BODY: Final = 40
"""A place within the base64 of a certificate."""
TEXTS: Final[Mapping[str, tuple[Change, bool]]] = {
    "header lines": (lambda pem: pem.replace(b"E-----\n", b"E-----\nProc-Type: 4\na: b\n\n", 1), True),
    "a broken block before": (lambda pem: b"-----BEGIN X-----\n!!\n-----END X-----\n" + pem, True),
    "an unfinished block before": (lambda pem: b"-----BEGIN CERTIFICATE-----\n" + pem, True),
    "a space after BEGIN": (lambda pem: pem.replace(b"BEGIN CERTIFICATE-----", b"BEGIN CERTIFICATE----- "), True),
    "a type of 70 characters": (lambda pem: pem.replace(b"CERTIFICATE", b"X" * 70), True),
    "junk before": (lambda pem: b"junk\n" + pem, True),
    "tabs within": (lambda pem: pem[:_BODY] + b" \t\r\n" + pem[_BODY:], True),
    "a vertical tab within": (lambda pem: pem[:_BODY] + b"\x0b" + pem[_BODY:], False),
    "a form feed within": (lambda pem: pem[:_BODY] + b"\x0c" + pem[_BODY:], False),
    "text after the END line": (lambda pem: pem.rstrip(b"\n") + b"x\n", False),
    "another type at the end": (lambda pem: pem.replace(b"END CERTIFICATE", b"END OTHER"), False),
}
"""How the PEM text of a certificate is changed, and whether Go takes it."""


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A transaction, and whether peers find it valid; None: either, they say."""

    envelope: bytes
    is_valid: bool | None


class HostileMember:
    """Makes transactions with the keys of a channel's organisations, of which the first is hostile."""

    def __init__(self, config: ChannelConfig, organisations: Mapping[str, Organisation], contract: str) -> None:
        self._ledger = ScratchLedger(config)
        self._contract = contract
        self._names = list(organisations)
        self._organisations = organisations
        called = chaincode_pb2.ChaincodeSpec(
            chaincode_id=chaincode_pb2.ChaincodeID(name=contract), input=chaincode_pb2.ChaincodeInput(args=[b"Nothing"])
        )
        spec = chaincode_pb2.ChaincodeInvocationSpec(chaincode_spec=called)
        self._call = proposal_pb2.ChaincodeProposalPayload(input=spec.SerializeToString()).SerializeToString()

    def plain(self) -> bytes:
        """A transaction in order, which reads what is not there."""
        return self._craft()

    def everything(self, *, thorough: bool) -> Iterator[tuple[str, Hostile]]:
        """One transaction of every kind, by name; thorough: in every part, and many siblings."""
        for name, (content, is_taken) in APPENDED.items():
            for part in _UNREAD if thorough else _UNREAD[2:3]:
                envelope = self._craft(**{part: _appending(content)})
                yield f"{part}: {name}", Hostile(envelope=envelope, is_valid=is_taken)
            if is_taken:
                yield f"payload: {name}", Hostile(envelope=self._craft(payload=_appending(content)), is_valid=True)
        version = encode_bytes(4, encode_bytes(1, self._contract.encode()) + encode_bytes(2, b"\xff"))
        yield "text that is not UTF-8", Hostile(envelope=self._craft(action=_appending(version)), is_valid=False)
        yield from self._with_odd_identities()
        yield HIGH_S, Hostile(envelope=self._craft(envelope=high_s), is_valid=None)
        yield from self._siblings(_SIBLINGS if thorough else _SIBLINGS // 10)

    def _with_odd_identities(self) -> Iterator[tuple[str, Hostile]]:
        own = self._organisations[self._names[0]]
        for name, (change, is_taken) in TEXTS.items():
            for unit, role in _ROLES:
                if role == "endorser" or is_taken:
                    signer = own.signer("odd", unit)
                    odd = _under(signer, change(signer.identity.certificate_pem))
                    yield f"{role} in PEM: {name}", Hostile(envelope=self._by(role, odd), is_valid=is_taken)
        for name, kind in ODD.items():
            for unit, role in _ROLES:
                if role == "endorser" or kind.is_taken:
                    signer = own.signer("odd", unit)
                    authority, key = own.signing.certificate, own.signing.key
                    public_key = signer.private_key.public_key()
                    assert isinstance(public_key, ec.EllipticCurvePublicKey)
                    pem = issue_odd(name, authority, key, public_key, unit)
                    odd = _under(signer, pem)
                    yield f"{role}'s certificate: {name}", Hostile(envelope=self._by(role, odd), is_valid=kind.is_taken)

    def _siblings(self, count: int) -> Iterator[tuple[str, Hostile]]:
        """Parts changed in any place."""
        random = Random(20261130)
        made = 0
        while made < count:
            part = random.choice((*_UNREAD, "results", "signed_response", "endorsements"))
            envelope = self._craft(**{part: _changing(random, part)})
            if not stops_peers(envelope):
                made += 1
                yield f"{part} changed, {made}", Hostile(envelope=envelope, is_valid=None)

    def _by(self, role: str, odd: Signer) -> bytes:
        if role == "creator":
            return self._craft(creator=odd)
        return self._craft(endorsers=[odd, *(self._organisations[one].signer("peer0", "peer") for one in self._rest)])

    @property
    def _rest(self) -> list[str]:
        """Those without whom the majority of four is not reached."""
        return self._names[1:3]

    def _craft(self, **settings: Any) -> bytes:
        reads = NamespaceReadWriteSet(namespace=self._contract, reads=(Read(key="nothing", version=None),))
        own = self._organisations[self._names[0]]
        settings.setdefault("endorsers", [self._organisations[one].signer("peer0", "peer") for one in self._names[:3]])
        settings.setdefault("creator", own.signer("sender", "client"))
        settings.setdefault("proposal_payload", lambda _: self._call)
        return self._ledger.craft([reads], chaincode=self._contract, nonce=os.urandom(24), **settings)


def _appending(content: bytes) -> Callable[[Any], bytes]:
    return lambda part: serialized(part) + content


def _changing(random: Random, part: str) -> Callable[[Any], Any]:
    def change_signature(endorsements: list[Any]) -> None:
        endorsements[0].signature = mutate_der(random, endorsements[0].signature)

    return change_signature if part == "endorsements" else lambda one: mutate_wire(random, serialized(one))


def _under(signer: Signer, pem: bytes) -> FixedSigner:
    identity = Identity(msp_id=signer.identity.msp_id, certificate_pem=pem)
    return FixedSigner(identity, signer.private_key)
