"""Every decoder: whatever bytes come, it decodes or refuses by name, and keeps its promise."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.decoders import Decoder, list_decoders

DECODERS = list_decoders()
# cryptography's word on names in certificates.
pytestmark = pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning")
EVERY = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
SERVICE = json.loads(DECODERS["contract service's settings"].seeds()[0])
PROFILE = json.loads(DECODERS["connection profile"].seeds()[0])
NODE = DECODERS["embedded node's settings"].seeds()[0]
ARRAYS = DECODERS["arrays of samples"].seeds()[0]
FOUND: tuple[tuple[str, bytes], ...] = (
    ("ordering node's channel", b'{"name":"fed","consensusRelation":"consenter","status":"active","height":Infinity}'),
    ("arrays of samples", ARRAYS.replace(b"PK\x01\x02-\x03-", b"PK\x01\x02-\x03\xff", 1)),
    ("table of samples", b"a,b,label\n1,1e300,0\n-1,1e3,1\n"),
    ("table of samples", b"a,b,label\n1,1,inf\n-1,1e3,1\n"),
    ("contract service's settings", json.dumps(SERVICE | {"certificate": "a\0b"}).encode()),
    ("connection profile", json.dumps(PROFILE | {"private_key": "a\0b"}).encode()),
    ("embedded node's settings", NODE.replace(b"genesis.block", b"genesis\\u0000block")),
    ("list of records from the contract", b"["),
    ("list of records from the contract", b'[{"organisation":"alpha"}]'),
    ("list of flags from the contract", b"\xff"),
    ("list of flags from the contract", b'["yes"]'),
    ("checkpoint", b"[" * 4000),
    ("network's state", b"[]"),
    ("mark of a volume", b"[" * 4000),
    ("builder: package", b"[" * 4000),
    ("builder: values", b"1"),
    ("address", b"127.0.0.1:"),
    ("owner of a directory", b"1:" + b"9" * 5000),
    ("gateway: events", b"\x0a\xff"),
    ("deliver: block", b"\x12\xff"),
    ("collections", b"\x12\x01\x0a"),
    ("node: how far the state is", b"{}"),
    ("node: query of the ledger", b"\n\x04qscc\n\x10GetBlockByNumber\n\x03fed\n\x02\xc2\xb2"),
    ("frame of values", b"abc"),
    ("values of a sum", b"abc"),
    ("randomness of a sum", b"abc"),
    ("option: rule", b"krum:byzantine=NaN"),
    ("option: optimiser", b"momentum:beta=1e30000000"),
    ("option: norms", b"\n\n\nfactor=1e1000000"),
)
"""What fuzzing found once, each refused by name since."""
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@EVERY
def test_a_decoder_takes_its_seeds(decoder: Decoder) -> None:
    """Otherwise what is made from them would be refused at the first step."""
    assert sum(decoder.run(seed) for seed in decoder.seeds())
    assert max(map(len, decoder.seeds())) <= decoder.max_bytes


@EVERY
@QUICK
@given(content=st.binary(max_size=300))
def test_arbitrary_bytes_are_decoded_or_refused(decoder: Decoder, content: bytes) -> None:
    decoder.run(content[: decoder.max_bytes])


@EVERY
@QUICK
@given(number=st.integers(0, 2**64 - 1))
def test_damaged_content_is_decoded_or_refused(decoder: Decoder, number: int) -> None:
    random = Random(number)
    decoder.run(decoder.damage(random, random.choice(decoder.seeds())))


@pytest.mark.parametrize(("name", "content"), FOUND)
def test_what_was_found_once_is_refused_since(name: str, content: bytes) -> None:
    assert not DECODERS[name].run(content)
