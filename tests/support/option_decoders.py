"""Decoders of options that people write on the command line, and of the files that these name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from blockfl.cli.aggregator import _load_opening_key
from blockfl.cli.institution import read_certificate_digest
from blockfl.cli.norms import parse_norms
from blockfl.cli.strategy import parse_optimiser, parse_rule
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.norm_rules import NormRules
from blockfl.protocol.seal import encode_public_key
from support.decoders import Decoder, of
from support.outer_decoders import keep
from support.protocol_decoders import federation

REFUSES = (LedgerError,)
BOUND = 1_000_000


def rule(content: bytes) -> None:
    found = parse_rule(content.decode("utf-8", "replace"), 9)
    assert content.decode().startswith(found.rule)
    assert type(found).model_validate_json(found.model_dump_json()) == found


def optimiser(content: bytes) -> None:
    found = parse_optimiser(content.decode("utf-8", "replace"))
    assert found is not None
    assert content.decode().startswith(found.method)
    assert type(found).model_validate_json(found.model_dump_json()) == found


def norms(content: bytes) -> None:
    """Four lines: a tensor's bound, the smallest norm, the smallest cosine, the adaptive bound."""
    lines = [*content.decode("utf-8", "replace").split("\n", 3), "", "", ""][:4]
    bound, norm, cosine, adaptive = (line or None for line in lines)
    chosen = {"minimum_l2_micro": norm, "minimum_cosine_micro": cosine}
    found = parse_norms(manifest(), BOUND, None if bound is None else [bound], chosen, adaptive)
    assert (found is None) == (not any(lines))
    if found is not None:
        assert NormRules.decode(found.encode()) == found
        assert bool(found.tensors) == (bound is not None)
        assert (found.adaptive is None) == (adaptive is None)


def manifest() -> Any:
    return federation().task.spec.manifest


def certificate_file(content: bytes) -> None:
    assert len(read_certificate_digest(str(keep("certificate.pem", content)))) == 64


def opening_key_file(content: bytes) -> None:
    profile: Any = SimpleNamespace(organisation="regulator", opening_key=str(keep("profile-opening.key", content)))
    assert len(encode_public_key(_load_opening_key(profile))) == 64


RULES = (
    b"fedavg",
    b"median",
    b"trimmed_mean:trim=2",
    b"krum:byzantine=2",
    b"multi_krum:byzantine=2,selected=4",
    b"norm_clipped_mean:clip_l2=0.5",
    b"krum:byzantine=NaN",
    b"norm_clipped_mean:clip_l2=1e999999",
)
OPTIMISERS = (
    b"adam",
    b"adam:learning_rate=0.01,beta1=0.9,beta2=0.99,tau=0.001",
    b"yogi:tau=1e-3",
    b"momentum:learning_rate=1,beta=0.9",
    b"adagrad:beta1=0",
    b"adam:tau=sNaN",
    b"momentum:beta=1e30000000",
)
NORMS = (
    b"*=0.5\n0.001\n0.1\nrounds=3,factor=1.5,floor=0.1",
    b"\n0.5\n\n",
    b"\n\n-0.25\n",
    b"\n\n\nfloor=Infinity",
    b"*=1e-999999999\nNaN\nsNaN\nfactor=1e1000000",
)

DECODERS: tuple[Decoder, ...] = (
    of("option: rule", rule, REFUSES, lambda: RULES, form="text", max_bytes=256),
    of("option: optimiser", optimiser, REFUSES, lambda: OPTIMISERS, form="text", max_bytes=256),
    of("option: norms", norms, REFUSES, lambda: NORMS, form="text", max_bytes=256),
    of(
        "certificate file",
        certificate_file,
        REFUSES,
        lambda: tuple(one.encode() for one in federation().certificates.values()),
        form="text",
        max_bytes=2048,
    ),
    of(
        "opening key of a profile",
        opening_key_file,
        REFUSES,
        lambda: (b"ab" * 32 + b"\n", b"ab" * 32),
        form="text",
        max_bytes=256,
    ),
)
