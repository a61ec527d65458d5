"""Damaged texts, certificates, signatures and integers, read by our decoders and by Go's standard library."""

from __future__ import annotations

import base64
from collections.abc import Callable
from random import Random
from typing import Final

from cryptography.hazmat.primitives.asymmetric import utils

from support import go_readings
from support.constrained_chains import encode_chain, judge_chain
from support.der_mutation import mutate_der
from support.golang import Kind, ask_go
from support.pem_mutation import mutate_pem
from support.rich_certificates import rich_certificates, rich_revocation_lists

_BATCH: Final = 10_000


def make_signature(random: Random) -> bytes:
    base = utils.encode_dss_signature(random.getrandbits(256) + 1, random.getrandbits(255) + 1)
    return mutate_der(random, base, random.choice((1, 1, 2, 3)))


def make_varint(random: Random) -> bytes:
    size = random.randint(0, 11)
    body = bytes(random.choice((0x80, 0xFF, 0x81, random.randrange(128, 256))) for _ in range(size))
    return body + bytes((random.choice((0, 1, 2, 0x7F, random.randrange(256))),))


def make_certificate(random: Random) -> bytes:
    return mutate_der(random, random.choice(rich_certificates()), random.choice((1, 1, 1, 2, 3)))


def make_revocation_list(random: Random) -> bytes:
    changed = mutate_der(random, random.choice(rich_revocation_lists()), random.choice((1, 1, 1, 2, 3)))
    if random.random() < 0.8:
        return changed
    lines = b"\n".join((b"-----BEGIN X509 CRL-----", base64.encodebytes(changed).strip(), b"-----END X509 CRL-----"))
    return lines if random.random() < 0.5 else b" " * random.randrange(2) + lines + b"\nmore"


MAKERS: Final[dict[Kind, tuple[Callable[[Random], bytes], Callable[[bytes], str]]]] = {
    "pem": (mutate_pem, go_readings.read_pem),
    "certificate": (make_certificate, go_readings.read_certificate),
    "chain": (encode_chain, judge_chain),
    "revocation list": (make_revocation_list, go_readings.read_revocations),
    "signature": (make_signature, go_readings.read_signature),
    "varint": (make_varint, go_readings.read_unsigned),
}
SLOW: Final[frozenset[Kind]] = frozenset(("chain", "revocation list"))


def count_differences(kind: Kind, inputs: int, *, seed: int) -> int:
    """How many of so many inputs we read otherwise than Go; the first ones are printed."""
    random = Random(seed)
    make, read = MAKERS[kind]
    count = 0
    for start in range(0, inputs, _BATCH):
        contents = [make(random) for _ in range(min(_BATCH, inputs - start))]
        for content, answer in zip(contents, ask_go(kind, contents), strict=True):
            if (found := read(content)) != answer:
                count += 1
                if count <= 5:
                    print(f"{kind} {content.hex()}: Go reads {answer}, we read {found}")
    return count
