"""Differences to plant: in each parser on the judging path one, such as another library or a stricter reading has.

The corpus must notice each of them: see `tests/unit/test_corpus.py`, and the table in `docs/parity.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import utils
from fabric_protos.common import policies_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel import block as block_module
from blockfl.fabric.channel import config as config_module
from blockfl.fabric.channel import organisations, update_rules
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.encoding import address, der, extension, protobuf
from blockfl.fabric.encoding import certificate as certificate_module
from blockfl.fabric.encoding import name as name_module
from blockfl.fabric.encoding import pem as pem_module
from blockfl.fabric.encoding import revocation_list as revocation_module
from blockfl.fabric.encoding.public_key import PublicKeyInfo
from blockfl.fabric.errors import BlockError, IdentityError, PolicyError
from blockfl.fabric.identity import chain, msp, name_constraint, policy, signing
from blockfl.fabric.validate import block as validate_block
from blockfl.fabric.validate import endorsement, envelope

TRANSACTIONS: Final = (
    *("part", "results", "creator", "creator text", "creator certificate"),
    *("endorser", "endorser text", "endorser certificate", "signature"),
)
CERTIFICATES: Final = ("creator certificate", "endorser certificate", "membership")
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A difference, and the kinds of cases that must notice it."""

    plant: Plant
    kinds: Sequence[str]


def _upb_alone(message_type: Any, encoded: bytes) -> Any:
    """What the official bindings take, without Go's rules."""
    return message_type.FromString(encoded)


def _canonical_only(message_type: Any, encoded: bytes) -> Any:
    message = message_type.FromString(encoded)
    if message.SerializeToString() != encoded:
        raise DecodeError("planted")
    return message


def _parse_by(parser: Callable[[Any, bytes], Any], *modules: str) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        for name in modules:
            patch.setattr(f"blockfl.fabric.{name}.parse", parser)

    return plant


def _replace(owner: Any, name: str, value: Any) -> Plant:
    return lambda patch: patch.setattr(owner, name, value)


def _forgive(owner: Any, name: str, result: Any, error: type[Exception] = der.DerError) -> Plant:
    """What is malformed is passed over."""
    original = getattr(owner, name)

    def lenient(*args: Any, **settings: Any) -> Any:
        try:
            return original(*args, **settings)
        except error:
            return result

    return _replace(owner, name, staticmethod(lenient) if isinstance(owner, type) else lenient)


def _text(patch: pytest.MonkeyPatch) -> None:
    """A PEM text without header lines only."""
    found = pem_module.decode_pem
    patch.setattr(signing, "decode_pem", lambda text: None if b":" in text else found(text))


def _certificate(patch: pytest.MonkeyPatch) -> None:
    """Object identifiers and times of any form."""

    class Lenient(der.DerReader):
        def read_object_identifier(self) -> tuple[int, ...]:
            try:
                return super().read_object_identifier()
            except der.DerError:
                return (1, 2)

        def read_time(self) -> int:
            self.read_any()
            return 1_600_000_000

    patch.setattr(certificate_module, "DerReader", Lenient)


def _signature(patch: pytest.MonkeyPatch) -> None:
    """A signature must hold R and S and nothing else."""
    original = signing.parse_ecdsa_signature

    def strict(signature: bytes) -> tuple[int, int]:
        r, s = original(signature)
        if utils.encode_dss_signature(r, s) != signature:
            raise IdentityError("planted")
        return r, s

    patch.setattr(signing, "parse_ecdsa_signature", strict)


def _revocations(patch: pytest.MonkeyPatch) -> None:
    """Revocation lists that `cryptography` takes, too, only."""
    original = revocation_module.RevocationList.parse

    def strict(encoded: bytes) -> Any:
        found = original(encoded)
        try:
            _ = x509.load_der_x509_crl(revocation_module._strip_pem(encoded)).extensions
        except (ValueError, x509.InvalidVersion) as error:
            raise der.DerError("planted") from error
        return found

    patch.setattr(revocation_module.RevocationList, "parse", staticmethod(strict))


def _known_rules(patch: pytest.MonkeyPatch) -> None:
    """An implicit policy with an unknown rule lets everybody pass."""
    original = policy.ImplicitMeta.satisfied_by
    patch.setattr(
        policy.ImplicitMeta,
        "satisfied_by",
        lambda self, identities, msps: self.threshold == 0 or original(self, identities, msps),
    )


def _strict_rule(patch: pytest.MonkeyPatch) -> None:
    """A rule that wants nothing is refused."""
    original = protobuf.rule_of

    def strict(envelope: Any) -> Any:
        if envelope.rule.WhichOneof("Type") == "n_out_of" and envelope.rule.n_out_of.n <= 0:
            raise PolicyError("planted")
        return original(envelope)

    patch.setattr(policy, "rule_of", strict)


def _exact_paths(patch: pytest.MonkeyPatch) -> None:
    """Every byte of a policy's path counts."""
    original = policy.PolicyManager.get

    def strict(self: Any, path: str) -> Any:
        if path not in self:
            raise PolicyError("planted")
        return original(self, path)

    patch.setattr(policy.PolicyManager, "get", strict)


def _five_entries(patch: pytest.MonkeyPatch) -> None:
    """Exactly five metadata entries."""
    original = block_module._read_entries

    def strict(block: Any) -> Any:
        if len(block.metadata.metadata) != block_module.METADATA_ENTRIES:
            raise BlockError("planted")
        return original(block)

    patch.setattr(block_module, "_read_entries", strict)


def _all_signatures(patch: pytest.MonkeyPatch) -> None:
    """Every signature of a block must be good."""
    original = policy.signing_identities

    def strict(signed: Sequence[Any], *arguments: Any) -> Any:
        found = original(signed, *arguments)
        if len(found) < len(signed):
            raise BlockError("planted")
        return found

    patch.setattr(block_module, "signing_identities", strict)


def _nothing(*_: Any, **__: Any) -> None:
    """Nothing is asked."""


def _no_uri(_: bytes) -> bytes:
    raise der.DerError("planted")


def _wrap_varints(patch: pytest.MonkeyPatch) -> None:
    """What overflows 64 bits is cut to them."""

    def lenient(data: bytes, position: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while position < end:
            byte, position = data[position], position + 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, position
            shift += 7
        raise DecodeError("planted")

    patch.setattr(protobuf, "read_varint", lenient)


PLANTED: Final[Mapping[str, Planted]] = {
    "protobuf: the official bindings": Planted(
        plant=_parse_by(_upb_alone, "transaction.envelope", "identity.signing"), kinds=TRANSACTIONS
    ),
    "protobuf: canonical encodings only": Planted(
        plant=_parse_by(_canonical_only, "transaction.envelope", "identity.signing"), kinds=TRANSACTIONS
    ),
    "protobuf: a hundred levels": Planted(plant=_replace(protobuf, "MAX_DEPTH", 99), kinds=TRANSACTIONS),
    "varints": Planted(plant=_wrap_varints, kinds=TRANSACTIONS),
    "envelopes": Planted(plant=_replace(envelope, "_check_signature_header", lambda *_: None), kinds=("part",)),
    "reads": Planted(plant=_replace(validate_block, "check_reads", lambda *_: None), kinds=("results",)),
    "endorsements": Planted(plant=_replace(endorsement._NamespaceCheck, "_require", _nothing), kinds=TRANSACTIONS),
    "read/write sets": Planted(plant=_parse_by(_upb_alone, "transaction.rwset"), kinds=("results",)),
    "PEM": Planted(plant=_text, kinds=("creator text", "endorser text", "membership")),
    "certificates": Planted(plant=_certificate, kinds=CERTIFICATES),
    "extensions": Planted(plant=_forgive(extension.Extensions, "read", extension.Extensions()), kinds=CERTIFICATES),
    "alternative names": Planted(plant=_forgive(extension, "check_alternative_names", True), kinds=CERTIFICATES),
    "URIs": Planted(plant=_replace(address, "check_uri", _no_uri), kinds=CERTIFICATES),
    "signatures of authorities": Planted(
        plant=_replace(chain, "authority_signed", lambda *_, **__: True), kinds=CERTIFICATES
    ),
    "names": Planted(plant=_forgive(name_module, "read_text", "client"), kinds=CERTIFICATES),
    "public keys": Planted(
        plant=_forgive(
            certificate_module,
            "_read_key_info",
            PublicKeyInfo(is_known=False, is_importable=True, key=None),
        ),
        kinds=CERTIFICATES,
    ),
    "chains": Planted(plant=_replace(chain, "_own_fault", lambda link, at_s: None), kinds=CERTIFICATES),
    "name constraints": Planted(plant=_replace(chain, "constraints_hold", lambda one: False), kinds=("names",)),
    "name constraints: domains": Planted(
        plant=_replace(name_constraint, "_is_below", lambda constraint, name: name.endswith(constraint)),
        kinds=("names",),
    ),
    "certificate policies": Planted(
        plant=_replace(chain, "policies_hold", lambda one: True), kinds=("certificate policy",)
    ),
    "signatures": Planted(plant=_signature, kinds=("signature", "signatures")),
    "revocation lists": Planted(plant=_revocations, kinds=("membership",)),
    "revocation lists: whom they name": Planted(
        plant=_replace(revocation_module.RevocationList, "read_authority_key", lambda self: b""),
        kinds=("membership",),
    ),
    "memberships: TLS authorities": Planted(
        plant=_replace(msp.Msp, "_check_tls_authorities", lambda self, config: None), kinds=("membership",)
    ),
    "memberships: roots": Planted(plant=_replace(chain.Link, "is_self_signed", True), kinds=("membership",)),
    "memberships: units": Planted(
        plant=_replace(msp.Msp, "_check_units", lambda self, units: None), kinds=("membership",)
    ),
    "memberships: administrators": Planted(
        plant=_replace(msp.Msp, "_set_up_admins", lambda self, config: setattr(self, "_admins", frozenset())),
        kinds=("membership",),
    ),
    "memberships: hashes": Planted(
        plant=_replace(msp, "_SIGNATURE_HASHES", {"SHA2": "SHA256", "SHA3": "SHA256"}), kinds=("membership",)
    ),
    "policies: rules": Planted(plant=_strict_rule, kinds=("policy",)),
    "policies: implicit ones": Planted(plant=_known_rules, kinds=("policy",)),
    "policies: versions": Planted(
        plant=_replace(
            policy,
            "_versioned",
            lambda encoded: policy._decode(policies_pb2.SignaturePolicyEnvelope, encoded, ""),
        ),
        kinds=("policy",),
    ),
    "policies: principals": Planted(
        plant=_replace(msp.Msp, "_satisfies_role", lambda self, identity, wanted: wanted.msp_identifier == self.msp_id),
        kinds=("policy",),
    ),
    "configurations: values": Planted(
        plant=_replace(
            config_module,
            "read_values",
            lambda group, known, where: {
                key: organisations.decode_value(known[key], entry.value, key)
                for key, entry in group.values.items()
                if key in known
            },
        ),
        kinds=("configuration",),
    ),
    "configurations: capabilities": Planted(
        plant=_replace(config_module, "_capabilities", lambda *_: frozenset({"V3_0"})), kinds=("configuration",)
    ),
    "configurations: durations": Planted(
        plant=_forgive(config_module, "parse_duration", 1.0, Exception), kinds=("configuration",)
    ),
    "updates: modification policies": Planted(
        plant=_replace(update_rules, "_check_mod_policy", lambda element, mod_policy: None), kinds=("update",)
    ),
    "updates: paths of policies": Planted(plant=_exact_paths, kinds=("update",)),
    "updates: signatures": Planted(plant=_replace(update_rules, "_authorise", lambda *_: None), kinds=("update",)),
    "updates: results": Planted(plant=_replace(update_rules, "_DEFAULT_MOD_POLICY", ""), kinds=("change",)),
    "blocks: entries": Planted(plant=_five_entries, kinds=("block",)),
    "blocks: hashes": Planted(plant=_replace(block_module, "verify_data", lambda *_: None), kinds=("block",)),
    "blocks: signatures": Planted(plant=_all_signatures, kinds=("signatures",)),
}


def forget(config: ChannelConfig | None = None) -> None:
    """Let nothing be remembered that was read before, or with a difference; what a channel's memberships know, too."""
    signing._read_pem.cache_clear()
    organisations.set_up_msp.cache_clear()
    if config is not None:
        msps, policies = config.msps, config.policies
        of_channel = (msps._parsed, msps._recognised, policies._applied, policies._outcomes, policies._outcomes_at)
        for memory in (*of_channel, *(msp._remembered for msp in msps.values())):
            memory.cache_clear()
