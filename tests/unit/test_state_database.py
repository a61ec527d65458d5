"""Peers whose state database gives JSON back in another spelling endorse as all others do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blockfl.contract.chunk import may_be_object
from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.model import encode_model, manifest_of
from blockfl.protocol.records import Progress
from blockfl.protocol.task import Task, TaskSpec
from support.contract import refused
from support.golang import REFUSED, ask_go, find_go
from support.scenario import Scenario, make_spec
from support.state_database import ReservedNameError, respell
from support.world import World

TITLE = "Risk < 5 % & age > 60 \u2028 \U0001f600\ue000"
VALUES = [
    b'{"a":"<&>"}',
    b'{"a":"\\u2028\\u2029\xe2\x80\xa8"}',
    '{"\ue000":1,"\U0001f600":2}'.encode(),
    b'{"big":9007199254740991,"none":null,"list":[1,"&",{"_inner":true}]}',
    b'{"b":1,"a":"\\b\\f\\n\\r\\t\\"\\\\/\\u001f\x7f"}',
    b'[{"<":1}]',
    b'"<text>"',
    b"123",
    b"null",
    b"\x00\x01{}",
    b" {} ",
]


def make_special_spec() -> tuple[TaskSpec, bytes]:
    """A task whose record has every character that such a database respells."""
    spec, _ = make_spec()
    arrays = {
        "\U0001f600 kernel": np.linspace(-1, 1, 8, dtype=np.float32),
        "\ue000<bias&>": np.ones(2, dtype=np.float32),
    }
    manifest = manifest_of(arrays)
    model = encode_model(manifest, np.concatenate([arrays[one.name].ravel() for one in manifest.tensors]))
    content = {"title": TITLE, "manifest": manifest, "initial_model": split_blob(model)[0]}
    return spec.model_copy(update=content), model


@pytest.fixture
async def scenario() -> Scenario:
    """Half of the peers respell; a transaction whose endorsements differ fails."""
    world = World()
    world.respell = dict.fromkeys(["coordinator", "regulator", "alpha", "gamma"], respell)
    told = Scenario(world, world.consortium, world.signers, world.opening_keys, make_special_spec())
    await told.prepare()
    return told


async def test_a_round_is_the_same_on_peers_of_both_kinds(scenario: Scenario) -> None:
    world = scenario.ledger
    assert isinstance(world, World)
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    await scenario.attest()
    await scenario.publish(1, scenario.initial_model)
    assert (await scenario.round()).state == "published"
    written = world.get(catalogue.TASK.key(scenario.task))
    assert written is not None
    assert respell(written) != written
    for peer in ("alpha", "beta"):
        assert await world.evaluate("alpha", "ReadTask", scenario.task, peer=peer) == written
    assert Task.decode(written).spec.title == TITLE


async def test_lists_are_read_as_they_were_written_from_peers_of_both_kinds(scenario: Scenario) -> None:
    world = scenario.ledger
    assert isinstance(world, World)
    world.respell = {"alpha": lambda value: json.dumps(json.loads(value), indent=1).encode()}
    answers = [await world.evaluate("alpha", "ListEnrolments", scenario.task, peer=peer) for peer in ("alpha", "beta")]
    assert answers[0] == answers[1]
    assert len(json.loads(answers[0])) == 4


def test_what_is_restored_is_one_record_whatever_its_spelling() -> None:
    encoded = Progress(task="heart", round=0, version=0, model_digest="ab" * 32).encode()
    loose = encoded.replace(b'"task":"heart"', b'"task": "h\\u0065art"')
    assert Progress.restore(loose).encode() == encoded
    with pytest.raises(ProtocolError, match="not in canonical form"):
        Progress.decode(loose)
    with pytest.raises(ProtocolError, match="Progress: round"):
        Progress.restore(encoded.replace(b'"round":0', b'"round":"0"'))


def test_a_reserved_name_would_be_refused() -> None:
    with pytest.raises(ReservedNameError):
        respell(b'{"_id":1}')


@pytest.mark.skipif(find_go() is None, reason="there is no Go on this machine")
def test_this_is_what_gos_encoder_makes_of_it() -> None:
    values = [*VALUES, b'{"_id":1}', b'{"~version":1}']
    assert ask_go("state", values) == [*(respell(one).hex() for one in VALUES), REFUSED, REFUSED]


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (b'{"a":"<"}', True),
        (b' {"a":\t1}\n', True),
        (b"{}", True),
        (b'{"\xff":1}', True),
        (b"[1]", False),
        (b"{", False),
    ],
    ids=["object", "with spaces", "empty", "no UTF-8", "array", "open"],
)
def test_a_chunk_that_might_be_respelled_is_known(chunk: bytes, expected: bool) -> None:
    assert may_be_object(chunk) is expected
    if respell(chunk) != chunk:
        assert expected


def test_ciphertext_is_never_taken_for_an_object() -> None:
    random = np.random.default_rng(1)
    chunks = [b"{" + random.bytes(4096) + b"}" for _ in range(200)]
    assert not any(map(may_be_object, chunks))


async def test_a_chunk_that_might_be_respelled_is_refused(scenario: Scenario) -> None:
    chunk = b'{"a":"<"}'
    call = scenario.ledger.submit(
        "coordinator", "UploadModelChunk", scenario.task, compute_digest(chunk), transient={"chunk": chunk}
    )
    with refused(Code.MALFORMED):
        await call
