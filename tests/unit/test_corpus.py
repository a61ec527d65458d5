"""Every recorded case gets the code that a real Fabric peer gave it, and a planted difference in any parser shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import utils
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding import certificate as certificate_module
from blockfl.fabric.encoding import der, protobuf
from blockfl.fabric.encoding import extension as extension_module
from blockfl.fabric.encoding import pem as pem_module
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity import chain as chain_module
from blockfl.fabric.identity import signing
from blockfl.fabric.validate import SignatureCache
from support import corpus
from support.corpus import recorded_verdicts, replay
from support.corpus_world import corpus_config

MINIMUM = 10_000
SOME = 8


def test_every_case_gets_the_code_that_a_real_peer_gave_it() -> None:
    cases, differences = replay()
    assert [str(one) for one in differences] == []
    assert cases >= MINIMUM


def test_the_recording_holds_every_kind_and_many_codes() -> None:
    kinds = Counter(one.kind for one in recorded_verdicts())
    codes = Counter(one.code for one in recorded_verdicts())
    assert min(kinds.values()) >= 40
    assert len(codes) >= 15
    assert codes[0] > 3000
    assert codes[corpus.STOPPED] < 5


def upb_alone(message_type: Any, encoded: bytes) -> Any:
    """What the official bindings take, without Go's rules."""
    return message_type.FromString(encoded)


def canonical_only(message_type: Any, encoded: bytes) -> Any:
    message = message_type.FromString(encoded)
    if message.SerializeToString() != encoded:
        raise DecodeError("planted")
    return message


def plant_parser(parser: Callable[[Any, bytes], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        for name in ("validate.envelope", "identity.signing"):
            patch.setattr(f"blockfl.fabric.{name}.parse", parser)

    return plant


def plant_text(patch: pytest.MonkeyPatch) -> None:
    """A PEM text without header lines only."""
    found = pem_module.decode_pem
    patch.setattr(signing, "decode_pem", lambda text: None if b":" in text else found(text))


def plant_certificate(patch: pytest.MonkeyPatch) -> None:
    """Inner and outer algorithm, or times, or whatever `cryptography` checks instead."""

    class Lenient(der.Reader):
        def read_object_identifier(self) -> tuple[int, ...]:
            try:
                return super().read_object_identifier()
            except der.DerError:
                return (1, 2)

        def read_time(self) -> int:
            self.read_any()
            return 1_600_000_000

    patch.setattr(certificate_module, "Reader", Lenient)


def plant_extension(patch: pytest.MonkeyPatch) -> None:
    """Extensions that are malformed are passed over."""
    original = extension_module.Extensions.read

    def read(found: Any) -> Any:
        try:
            return original(found)
        except der.DerError:
            return extension_module.Extensions()

    patch.setattr(extension_module.Extensions, "read", staticmethod(read))


def plant_purposes(patch: pytest.MonkeyPatch) -> None:
    """Certificate policies are not looked at."""
    patch.setattr(chain_module, "_own_fault", lambda link, at_s: None)


def plant_signature(patch: pytest.MonkeyPatch) -> None:
    """A signature must hold R and S and nothing else."""
    original = signing.parse_ecdsa_signature

    def strict(signature: bytes) -> tuple[int, int]:
        r, s = original(signature)
        if utils.encode_dss_signature(r, s) != signature:
            raise IdentityError("planted")
        return r, s

    patch.setattr(signing, "parse_ecdsa_signature", strict)


def plant_depth(patch: pytest.MonkeyPatch) -> None:
    """Unknown groups nest a hundred deep only, as in the official bindings."""
    patch.setattr(protobuf, "MAX_DEPTH", 99)


@pytest.mark.parametrize(
    "plant",
    [
        plant_parser(upb_alone),
        plant_parser(canonical_only),
        plant_text,
        plant_certificate,
        plant_extension,
        plant_purposes,
        plant_signature,
        plant_depth,
    ],
    ids=["bindings", "canonical", "text", "certificate", "extension", "chain", "signature", "depth"],
)
def test_a_planted_difference_in_a_parser_is_noticed(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = replace(corpus.base_ledger().config)
    assert fresh.msps is corpus_config().msps
    for memory in (fresh.msps._parsed, *(msp._remembered for msp in fresh.msps.values())):
        memory.cache_clear()
    signing._read_pem.cache_clear()
    plant(monkeypatch)
    monkeypatch.setattr(corpus, "_SIGNATURES", SignatureCache())
    try:
        _, differences = replay(every=SOME)
    finally:
        signing._read_pem.cache_clear()
        for memory in (fresh.msps._parsed, *(msp._remembered for msp in fresh.msps.values())):
            memory.cache_clear()
    assert differences
