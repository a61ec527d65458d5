"""Malformed calls of every kind: the answer is a refusal with a stable code, never anything else."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockfl.contract.argument import MAX_ARGUMENT_BYTES
from blockfl.fabric.identity.signing import Identity
from blockfl.protocol.assessment import Assessment
from blockfl.protocol.codes import Code
from support.contract import make_registered_world, make_scenario, refused
from support.scenario import Scenario, make_spec
from support.world import Refused, World

CODED = re.compile(r"BFL[1-6][0-9]{2} .+", re.DOTALL)
VALID_ARGUMENTS: dict[str, list[bytes]] = {
    "RegisterCommitteeKey": [b"09" + b"00" * 31],
    "UploadModelChunk": [b"heart", b"ab" * 32],
    "UploadSumChunk": [b"heart", b"1", b"ab" * 32],
    "EndTask": [b"heart", b"wrong columns"],
    "Enrol": [b"heart", b"5"],
    "OpenRound": [b"heart", b"1"],
    "UploadChunk": [b"heart", b"1", b"0"],
    "JudgeUpdate": [b"heart", b"1", b"alpha"],
    "CloseRound": [b"heart", b"1"],
    "ClaimWrap": [b"heart", b"1", b"alpha"],
    "SettleWrap": [b"heart", b"1", b"alpha", b"university"],
    "WithdrawCertificate": [b"ab" * 32],
    "RequestErasure": [b"heart"],
    "EraseUpdate": [b"heart", b"1", b"alpha"],
    "PublishModel": [b"heart", b"1", b"ab" * 32],
    "AbandonRound": [b"heart", b"1"],
    "Grant": [b"first", b"alpha", b"5"],
    "Transfer": [b"first", b"beta", b"5"],
    "Withdraw": [b"heart"],
    "ScoreRound": [b"heart", b"1"],
    "AppraiseVersion": [b"heart", b"0"],
    "SettleRound": [b"heart", b"1"],
    "OverturnPenalty": [b"heart", b"1", b"gamma"],
    "ReadTask": [b"heart"],
    "ReadChunk": [b"heart", b"1", b"alpha", b"0"],
    "ReadModelChunk": [b"heart", b"ab" * 32],
    "ReadSumChunk": [b"heart", b"1", b"ab" * 32],
    "ListMetrics": [b"heart", b"0"],
}


@pytest.fixture(scope="module")
def prepared() -> tuple[World, Scenario, dict[str, list[bytes]]]:
    """A world with an open round, and well-formed arguments of every transaction."""

    async def prepare() -> tuple[World, Scenario, dict[str, list[bytes]]]:
        scenario, world = await make_scenario()
        await scenario.open()
        signed = await scenario.submit("alpha")
        arguments = VALID_ARGUMENTS | {
            "RegisterConsortium": [world.consortium.encode()],
            "CreateTask": [scenario.spec.encode()],
            "SubmitUpdate": [signed.encode(), scenario.metrics("alpha", 0, b"model").encode()],
            "AssessUpdate": [
                Assessment(
                    task="heart",
                    round=1,
                    organisation="alpha",
                    member="regulator",
                    base_loss_micro=1,
                    loss_micro=1,
                    assessed_at_ms=0,
                ).encode()
            ],
            "AttestAggregate": [b"heart", b"1", scenario.spec.initial_model.encode()],
            "ReadModelUpload": [b"heart", scenario.spec.initial_model.encode()],
            "ReadSumUpload": [b"heart", b"1", scenario.spec.initial_model.encode()],
            "ReportMetrics": [scenario.metrics("alpha", 0, b"model").encode()],
        }
        return world, scenario, arguments

    return asyncio.run(prepare())


def answer(world: World, creator: str, raw: list[bytes], transient: dict[str, bytes], timestamp_ms: int) -> str | None:
    """Return the refusal of a call, None if it succeeded; anything else passes through."""
    try:
        asyncio.run(world.simulate(creator, creator, "", raw=raw, transient=transient, timestamp_ms=timestamp_ms))
    except Refused as refusal:
        return refusal.text
    return None


creators = st.sampled_from(["alpha", "coordinator", "regulator"])
functions = st.sampled_from(sorted(World().contracts["alpha"].table))
words = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"heart", b"1", b"0", b"01", b"-1", b"999999", b"1000000", b"9" * 40, b"alpha", b"", b"\xff\x00"]),
    st.integers().map(lambda number: str(number).encode()),
)
transients = st.dictionaries(
    st.one_of(st.just("chunk"), st.text(alphabet="abc", max_size=5)), st.binary(max_size=50), max_size=2
)
times = st.one_of(st.just(1_800_000_000_000), st.integers(min_value=-(2**63), max_value=2**63))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arbitrary_arguments_are_refused_with_a_code_or_succeed(prepared: Any, data: st.DataObject) -> None:
    world, _, arguments = prepared
    function = data.draw(st.one_of(functions.map(str.encode), words))
    valid = arguments.get(function.decode(errors="replace"), [])
    drawn = data.draw(st.lists(words, max_size=5) if not valid else mutated(valid))
    text = answer(world, data.draw(creators), [function, *drawn], data.draw(transients), data.draw(times))
    assert text is None or CODED.fullmatch(text), text


def mutated(valid: list[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Well-formed arguments with one changed, missing or too many."""

    def change(draw: Any) -> list[bytes]:
        changed = list(valid)
        index = draw(st.integers(min_value=0, max_value=len(valid)))
        if index == len(valid):
            return [*changed, draw(words)]
        changed[index] = draw(st.one_of(words, spoilt(changed[index])))
        return changed

    return st.composite(change)()


def spoilt(value: bytes) -> st.SearchStrategy[bytes]:
    """The same bytes with one flipped, dropped, or something appended."""
    places = st.integers(min_value=0, max_value=max(len(value) - 1, 0))
    return st.one_of(
        st.tuples(places, st.integers(min_value=1, max_value=255)).map(
            lambda at: value[: at[0]] + bytes([value[at[0]] ^ at[1]]) + value[at[0] + 1 :]
        ),
        places.map(lambda at: value[:at] + value[at + 1 :]),
        st.binary(min_size=1, max_size=3).map(lambda more: value + more),
    )


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([2**53, 2**53 - 1, -1, "", "0" * 64, "9" * 200, [], {}]),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_records_with_one_field_changed_are_refused_with_a_code_or_succeed(prepared: Any, data: st.DataObject) -> None:
    world, _, arguments = prepared
    function = data.draw(
        st.sampled_from(["RegisterConsortium", "CreateTask", "SubmitUpdate", "AttestAggregate", "ReportMetrics"])
    )
    *before, record = arguments[function]
    value = json.loads(record)
    at = value
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    if data.draw(st.booleans()) and isinstance(at, dict):
        del at[key]
    else:
        at[key] = data.draw(scalars)
    encoded = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    text = answer(world, data.draw(creators), [function.encode(), *before, encoded], {}, 1_800_000_000_000)
    assert text is None or CODED.fullmatch(text), text


@pytest.mark.parametrize("raw", [[], [b""], [b"\xff"], [b"Nothing"], [b"openround"], [b"__call__"], [b"x" * 100_000]])
async def test_an_unknown_function_is_refused(raw: list[bytes]) -> None:
    world = World()
    with refused(Code.UNKNOWN_TRANSACTION):
        await world.simulate("alpha", "alpha", "", raw=raw)


@pytest.mark.parametrize("function", sorted(World().contracts["alpha"].table))
async def test_every_function_counts_its_arguments_and_transient_fields(function: str) -> None:
    world = World()
    entry = world.contracts["alpha"].table[function]
    expected, transient = len(entry.arguments), dict.fromkeys(entry.transient, b"x")
    most = expected + (entry.further.at_most if entry.further else 0)
    text = f"expected {expected} arguments" if most == expected else f"expected {expected} to {most} arguments"
    with refused(Code.ARGUMENTS, text):
        await world.simulate("alpha", "alpha", function, *["x"] * (most + 1), transient=transient)
    with refused(Code.ARGUMENTS, "transient fields"):
        await world.simulate("alpha", "alpha", function, *["x"] * expected, transient={"chunk": b"x", "more": b"x"})


async def test_a_record_that_only_one_may_send_is_decoded_for_nobody_else() -> None:
    world = await make_registered_world()
    names = b'{"institutions":[' + b",".join([b'"alpha"'] * 300_000) + b"]}"
    with refused(Code.NOT_COORDINATOR):
        await world.simulate("alpha", "alpha", "CreateTask", names)
    with refused(Code.MALFORMED, "TaskSpec: "):
        await world.simulate("coordinator", "coordinator", "CreateTask", names)


@pytest.mark.parametrize(
    ("function", "before", "kind"),
    [
        ("RegisterConsortium", [], "Consortium"),
        ("SubmitUpdate", [], "SignedHeader"),
        ("AssessUpdate", [], "Assessment"),
        ("AttestAggregate", ["heart", "1"], "Blob"),
        ("ReadModelUpload", ["heart"], "Blob"),
        ("ReportMetrics", [], "Metrics"),
    ],
)
async def test_a_record_that_any_member_may_send_is_bounded(function: str, before: list[str], kind: str) -> None:
    world = await make_registered_world()
    with refused(Code.MALFORMED, f"{kind}: expected at most {MAX_ARGUMENT_BYTES} bytes, got {MAX_ARGUMENT_BYTES + 1}"):
        await world.simulate("alpha", "alpha", function, *before, b" " * (MAX_ARGUMENT_BYTES + 1))


async def test_other_spellings_of_a_record_are_refused() -> None:
    world = await make_registered_world()
    spec = make_spec()[0].encode()
    for other in (spec + b"\n", b" " + spec, spec.replace(b'"title":', b'"title": ', 1), spec[:-1] + b',"more":1}'):
        with refused(Code.MALFORMED):
            await world.simulate("coordinator", "coordinator", "CreateTask", other)


async def test_a_refusal_shows_no_more_than_a_glimpse_of_what_was_sent() -> None:
    world = World()
    with pytest.raises(Refused) as caught:
        await world.simulate("alpha", "alpha", "ReadTask", b"\n\x1b[31m" * 10_000)
    assert len(caught.value.text) < 300
    assert caught.value.text.isprintable()


@pytest.mark.parametrize("msp_id", ["outsider", "", "ALPHA", "alpha/", "../alpha", "\x00", "ä" * 5_000])
async def test_a_caller_from_outside_changes_nothing(prepared: Any, msp_id: str) -> None:
    world, _, arguments = prepared
    identity = Identity(msp_id=msp_id, certificate_pem=world.signers["alpha"].identity.certificate_pem)
    writers = [name for name in world.contracts["alpha"].table if not name.startswith(("Read", "List"))]
    assert set(writers) <= set(arguments)
    for function in writers:
        transient = dict.fromkeys(world.contracts["alpha"].table[function].transient, b"x")
        with pytest.raises(Refused) as caught:
            await world.simulate(
                "alpha",
                "alpha",
                "",
                raw=[function.encode(), *arguments[function]],
                transient=transient,
                identity=identity,
            )
        assert CODED.fullmatch(caught.value.text)


@pytest.mark.parametrize("timestamp_ms", [-1, -(2**63), 2**52 + 1, 2**63])
async def test_a_time_that_no_record_can_hold_is_refused(timestamp_ms: int) -> None:
    scenario, world = await make_scenario()
    await scenario.open()
    await scenario.submit("alpha")
    await scenario.upload("alpha")
    with refused(Code.MALFORMED, "time"):
        await world.simulate("regulator", "regulator", "JudgeUpdate", "heart", "1", "alpha", timestamp_ms=timestamp_ms)


async def test_a_creator_without_a_certificate_is_refused() -> None:
    world = World()
    identity = Identity(msp_id="alpha", certificate_pem=b"none")
    with refused(Code.MALFORMED, "creator"):
        await world.simulate("alpha", "alpha", "Enrol", "heart", "5", identity=identity)
