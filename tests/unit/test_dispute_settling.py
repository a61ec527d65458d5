"""Both sides of a dispute as their commands have it: what is checked first, and who is shown the key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from blockfl.aggregator import dispute as committee
from blockfl.audit import views
from blockfl.fabric.errors import EndorseError, ErrorDetail
from blockfl.institution import dispute as institution
from blockfl.institution.errors import OutboxError
from blockfl.institution.outbox import Outbox
from blockfl.ledger.errors import LedgerError, RefusedError, UnreachableError
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.payload import INT16
from support.scenario import Scenario, make_spec
from support.world import World
from support.world_ledger import WorldHub, WorldLedger

MEMBERS = ("alpha", "coordinator", "regulator", "university")
"""Who can read alpha's update anyway: a majority of seven."""


class Stage:
    """Alpha's update on the ledger, and everybody's client."""

    def __init__(self, tmp_path: Path) -> None:
        self.world = World()
        self.hub = WorldHub(self.world)
        self.scenario = Scenario(
            self.hub, self.world.consortium, self.world.signers, self.world.opening_keys, make_spec()
        )
        self.outbox = Outbox(tmp_path / "outbox")

    async def begin(self, **changes: Any) -> None:
        """Submit alpha's update, with ``university``'s wrap changed so."""
        await self.scenario.prepare()
        await self.scenario.open()
        header, chunks = await self.scenario.seal("alpha")
        wraps = [
            one.model_copy(update=changes) if one.organisation == "university" else one for one in header.wrapped_keys
        ]
        signed = self.scenario.sign(header.model_copy(update={"wrapped_keys": tuple(wraps)}))
        payload = INT16.encode_payload(self.scenario.values("alpha"), self.scenario.seed("alpha"))
        self.outbox.begin("heart", 1)
        self.outbox.keep(signed, payload, chunks)
        await self.world.submit("alpha", "SubmitUpdate", signed.encode())

    def ledger(self, organisation: str) -> WorldLedger:
        return self.hub.ledger(organisation)

    async def settle_as(self, member: str) -> Any:
        key = self.world.opening_keys[member]
        return await committee.settle(self.ledger(member), key, "heart", 1, "alpha", "university")

    async def settle_as_alpha(self) -> Any:
        return await institution.settle(self.ledger("alpha"), self.outbox, "heart", 1, "university")


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


async def test_a_member_whose_wrap_is_right_has_nothing_to_claim(stage: Stage) -> None:
    await stage.begin()
    ledger = stage.ledger("university")
    with pytest.raises(LedgerError, match="nothing to claim"):
        await committee.claim(ledger, stage.world.opening_keys["university"], "heart", 1, "alpha")
    assert "ClaimWrap" not in ledger.calls


async def test_a_member_with_another_opening_key_claims_nothing(stage: Stage) -> None:
    await stage.begin()
    with pytest.raises(ProtocolError, match="BFL119"):
        await committee.claim(stage.ledger("university"), stage.world.opening_keys["regulator"], "heart", 1, "alpha")


@pytest.mark.parametrize("changes", [{"ciphertext": "00" * 48}, {"encapsulation": "09" + "00" * 31}])
async def test_a_right_claim_is_upheld_by_whoever_can_open_the_update(stage: Stage, changes: dict[str, str]) -> None:
    await stage.begin(**changes)
    reason = await committee.claim(
        stage.ledger("university"), stage.world.opening_keys["university"], "heart", 1, "alpha"
    )
    assert reason.startswith("BFL412")
    settled = await stage.settle_as("regulator")
    assert (settled.state, settled.settled_by) == ("upheld", "regulator")


async def test_an_institution_that_sealed_wrongly_proves_itself_wrong(stage: Stage) -> None:
    await stage.begin(ciphertext="00" * 48)
    await stage.ledger("university").claim_wrap("heart", 1, "alpha")
    assert (await stage.settle_as_alpha()).state == "upheld"


async def test_a_false_claim_is_refuted_from_the_outbox_or_with_an_opening_key_and_seen_by_all(stage: Stage) -> None:
    await stage.begin()
    await stage.ledger("university").claim_wrap("heart", 1, "alpha")
    (row,) = await views.list_updates(stage.ledger("beta"), "heart", 1)
    assert row["disputes"] == ["university: claimed"]
    settled = await stage.settle_as_alpha()
    assert (settled.state, settled.settled_by) == ("refuted", "alpha")
    assert (await stage.settle_as("regulator")) == settled
    (row,) = await views.list_updates(stage.ledger("beta"), "heart", None)
    assert row["disputes"] == ["university: refuted"]
    (round_,) = await views.list_rounds(stage.ledger("beta"), "heart")
    assert (round_["claims"], round_["false_claims"]) == (["university about alpha: refuted"], ["university"])


async def test_without_a_claim_no_key_leaves(stage: Stage) -> None:
    await stage.begin()
    for settle in (stage.settle_as_alpha, lambda: stage.settle_as("regulator")):
        with pytest.raises(LedgerError, match="no claim of university about the update of alpha"):
            await settle()


async def test_a_damaged_or_pruned_outbox_is_told(stage: Stage, tmp_path: Path) -> None:
    await stage.begin()
    await stage.ledger("university").claim_wrap("heart", 1, "alpha")
    payload = tmp_path / "outbox" / "heart" / "000001" / "sealed" / "payload"
    payload.write_bytes(payload.read_bytes()[:-1] + b"\0")
    with pytest.raises(OutboxError, match="damaged"):
        await stage.settle_as_alpha()
    payload.unlink()
    with pytest.raises(OutboxError, match="cannot be read"):
        await stage.settle_as_alpha()


async def test_the_key_is_shown_first_to_those_who_can_read_the_update_anyway(stage: Stage) -> None:
    asked: list[Sequence[str]] = []

    class Watching(WorldLedger):
        async def submit(self, function: str, *arguments: Any, **options: Any) -> Any:
            asked.append(options["organisations"])
            if "university" in options["organisations"]:
                raise UnreachableError("university did not answer")
            return await super().submit(function, *arguments, **options)

    await stage.begin()
    await stage.ledger("university").claim_wrap("heart", 1, "alpha")
    with pytest.raises(UnreachableError):
        await Watching(stage.hub, "alpha").settle_wrap("heart", 1, "alpha", "university", bytes(32))
    assert asked == [MEMBERS]


async def test_somebody_else_sees_the_key_only_when_one_of_them_does_not_answer(stage: Stage) -> None:
    asked: list[Sequence[str]] = []
    gone = EndorseError(
        "not endorsed",
        status=grpc.StatusCode.UNAVAILABLE,
        details=[ErrorDetail(address="127.0.0.1:1", msp_id="university", message="connection refused")],
    )

    class Watching(WorldLedger):
        async def submit(self, function: str, *arguments: Any, **options: Any) -> Any:
            asked.append(options["organisations"])
            if "university" in options["organisations"]:
                raise UnreachableError("university did not answer") from gone
            return await super().submit(function, *arguments, **options)

    await stage.begin()
    await stage.ledger("university").claim_wrap("heart", 1, "alpha")
    settled = await institution.settle(Watching(stage.hub, "alpha"), stage.outbox, "heart", 1, "university")
    assert settled.state == "refuted"
    assert asked == [MEMBERS, ("alpha", "coordinator", "regulator", "beta")]


async def test_a_key_that_proves_nothing_is_shown_once(stage: Stage) -> None:
    await stage.begin()
    await stage.ledger("university").claim_wrap("heart", 1, "alpha")
    ledger = stage.ledger("alpha")
    with pytest.raises(RefusedError) as caught:
        await ledger.settle_wrap("heart", 1, "alpha", "university", bytes(32))
    assert caught.value.code is Code.EPHEMERAL_KEY
    assert ledger.calls.count("SettleWrap") == 1


async def test_withdrawn_certificates_are_listed(stage: Stage) -> None:
    await stage.scenario.register()
    await stage.ledger("alpha").withdraw_certificate("ab" * 32)
    (row,) = await views.list_withdrawals(stage.ledger("beta"))
    assert (row["organisation"], row["certificate_digest"]) == ("alpha", "ab" * 32)
