"""Claims about wraps in the contract: who may make and settle them, what is written, and what is not."""

from __future__ import annotations

import pytest

from blockfl.protocol.claims import Dispute
from blockfl.protocol.codes import Code
from support.contract import make_scenario, not_endorsed, refused
from support.scenario import Scenario
from support.world import World

KEY = "dispute/heart/000001/alpha/university"
CLAIM = ("ClaimWrap", "heart", "1", "alpha")
SETTLE = ("SettleWrap", "heart", "1", "alpha", "university")


async def submitted(*, broken: bool = False) -> tuple[Scenario, World]:
    """Alpha's update is on the ledger, with a right or a wrong wrap for ``university``."""
    scenario, world = await make_scenario()
    await scenario.open()
    header, chunks = await scenario.seal("alpha")
    if broken:
        wraps = [
            one.model_copy(update={"ciphertext": "00" * 48}) if one.organisation == "university" else one
            for one in header.wrapped_keys
        ]
        header = header.model_copy(update={"wrapped_keys": tuple(wraps)})
    signed = scenario.sign(header)
    scenario.sealed[1, "alpha"] = (signed, chunks, scenario.values("alpha"))
    await world.submit("alpha", "SubmitUpdate", signed.encode())
    await scenario.upload("alpha")
    return scenario, world


def shown(scenario: Scenario, member: str = "university") -> dict[str, bytes]:
    return {"ephemeral_key": scenario.ephemeral_key("alpha", member)}


async def test_a_claim_is_written_and_announced_once() -> None:
    _, world = await submitted()
    done = await world.submit("university", *CLAIM)
    assert (done.written, done.event) == ([KEY], "WrapClaimed")
    assert Dispute.decode(done.payload).state == "claimed"
    assert world.policy(KEY) is None
    world.now_ms += 1
    again = await world.submit("university", *CLAIM)
    assert (again.written, again.payload) == ([], done.payload)


@pytest.mark.parametrize("settler", ["alpha", "regulator", "coordinator", "university"])
async def test_the_institution_or_a_member_refutes_a_false_claim_before_the_majority(settler: str) -> None:
    scenario, world = await submitted()
    await world.submit("university", *CLAIM)
    done = await world.submit(settler, *SETTLE, transient=shown(scenario))
    assert (done.written, done.event) == ([KEY], "WrapSettled")
    dispute = Dispute.decode(done.payload)
    assert (dispute.state, dispute.settled_by, dispute.settled_at_ms) == ("refuted", settler, world.now_ms)
    again = await world.submit("coordinator", *SETTLE, transient={"ephemeral_key": bytes(32)})
    assert (again.written, again.payload) == ([], done.payload)
    assert (await world.submit("university", *CLAIM)).payload == done.payload


async def test_a_right_claim_is_upheld_and_everybody_rejects_the_update() -> None:
    scenario, world = await submitted(broken=True)
    await world.submit("university", *CLAIM)
    done = await world.submit("regulator", *SETTLE, transient=shown(scenario, "regulator"))
    assert Dispute.decode(done.payload).state == "upheld"
    assert (await scenario.judge("alpha")).code == "BFL412"


async def test_a_verdict_waits_for_no_dispute() -> None:
    scenario, world = await submitted()
    await world.submit("university", *CLAIM)
    assert (await scenario.judge("alpha")).state == "accepted"


async def test_the_key_is_on_no_record_and_in_no_event() -> None:
    scenario, world = await submitted()
    await world.submit("university", *CLAIM)
    key = shown(scenario)
    done = await world.submit("alpha", *SETTLE, transient=key)
    secret = key["ephemeral_key"]
    everything = b"".join(cell.value for cell in world.snapshot().values()) + done.simulation.event + done.payload
    for hidden in (secret, scenario.data_key("alpha")):
        assert hidden not in everything
        assert hidden.hex().encode() not in everything


async def test_the_committee_alone_settles_nothing() -> None:
    scenario, world = await submitted()
    with not_endorsed():
        await world.submit("university", *CLAIM, endorsers=world.consortium.committee)
    await world.submit("university", *CLAIM)
    with not_endorsed():
        await world.submit("alpha", *SETTLE, transient=shown(scenario), endorsers=world.consortium.committee)


async def test_who_can_open_nothing_claims_nothing() -> None:
    _, world = await submitted()
    for outsider in ("alpha", "beta"):
        with refused(Code.NOT_COMMITTEE):
            await world.submit(outsider, *CLAIM)
    with refused(Code.UPDATE_UNKNOWN):
        await world.submit("university", "ClaimWrap", "heart", "1", "beta")


async def test_another_institution_settles_nothing() -> None:
    scenario, world = await submitted()
    await world.submit("university", *CLAIM)
    with refused(Code.NOT_COMMITTEE):
        await world.submit("beta", *SETTLE, transient=shown(scenario))


async def test_without_a_claim_nothing_is_shown() -> None:
    scenario, world = await submitted()
    with refused(Code.RECORD_UNKNOWN, "claim of university"):
        await world.submit("alpha", *SETTLE, transient=shown(scenario))
    await world.submit("university", *CLAIM)
    with refused(Code.RECORD_UNKNOWN, "claim of regulator"):
        await world.submit("alpha", "SettleWrap", "heart", "1", "alpha", "regulator", transient=shown(scenario))


@pytest.mark.parametrize(
    ("key", "code"), [(b"", Code.MALFORMED), (bytes(31), Code.MALFORMED), (bytes(32), Code.EPHEMERAL_KEY)]
)
async def test_a_key_that_proves_nothing_leaves_the_claim_open(key: bytes, code: Code) -> None:
    _, world = await submitted()
    await world.submit("university", *CLAIM)
    with refused(code):
        await world.submit("alpha", *SETTLE, transient={"ephemeral_key": key})
    assert Dispute.decode(world.get(KEY) or b"").state == "claimed"


async def test_claims_of_a_round_are_listed() -> None:
    _, world = await submitted()
    first = await world.submit("regulator", *CLAIM)
    second = await world.submit("university", *CLAIM)
    listed = await world.evaluate("beta", "ListDisputes", "heart", "1")
    assert listed == b"[" + first.payload + b"," + second.payload + b"]"
    assert await world.evaluate("beta", "ListDisputes", "heart", "2") == b"[]"
