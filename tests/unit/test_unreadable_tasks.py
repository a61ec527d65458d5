"""A task whose record cannot be decoded: everybody names it and goes on with the others."""

from __future__ import annotations

import pytest

from blockfl.audit import accounts, views
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.audit.verification import verify_records
from blockfl.ledger.errors import LedgerError, UnreachableError, UnreadableError, is_unreadable
from blockfl.protocol import catalogue
from blockfl.protocol.economics import Standing
from blockfl.protocol.records import Model, Progress
from support.recorded_world import Recorded, Telling, publish_recorded_round
from support.scenario import TASK, make_spec
from support.world_ledger import WorldHub

EVIL = "evil"


@pytest.fixture
async def hub() -> WorldHub:
    """A task with a published round, and one whose record nobody can decode, which comes first."""
    world = (await publish_recorded_round()).ledger
    assert isinstance(world, Recorded)
    world.force("", catalogue.TASK.key(EVIL), b"{}")
    progress = Progress(task=EVIL, round=0, version=0, model_digest="0" * 64)
    world.force("", catalogue.PROGRESS.key(EVIL), progress.encode())
    return WorldHub(world)


def history_of(hub: WorldHub) -> History:
    """Return the auditor's view."""
    assert isinstance(hub.world, Recorded)
    return Telling(hub.world).history()


async def test_tasks_are_listed_by_their_progress_and_the_unreadable_one_says_why(hub: WorldHub) -> None:
    evil, heart = await views.list_tasks(hub.ledger("alpha"))
    assert (evil["task"], heart["task"]) == (EVIL, TASK)
    assert str(evil["error"]).startswith("BFL301 Task: ")
    assert str(evil["title"]).startswith("cannot be read: BFL301 Task: ")
    assert evil.keys() == heart.keys()
    assert (heart["error"], heart["version"], heart["rounds"]) == (None, 1, make_spec()[0].rounds)


async def test_a_listing_holds_no_specification(hub: WorldHub) -> None:
    answer = await hub.evaluate("alpha", "ListProgress")
    assert b"manifest" not in answer
    assert len(answer) < 2 * 200


async def test_when_nobody_answers_no_task_is_called_unreadable(hub: WorldHub) -> None:
    ledger = hub.ledger("alpha")
    answer = await hub.evaluate("alpha", "ListProgress")

    async def evaluate(function: str, *arguments: str | bytes, own_peer: bool = False) -> bytes:
        if function == "ListProgress":
            return answer
        raise UnreachableError("connection refused")

    ledger.evaluate = evaluate  # type: ignore[method-assign]
    with pytest.raises(UnreachableError):
        await views.list_tasks(ledger)


async def test_an_answer_that_is_no_task_is_unreadable_too(hub: WorldHub) -> None:
    ledger = hub.ledger("alpha")

    async def evaluate(function: str, *arguments: str | bytes, own_peer: bool = False) -> bytes:
        return b"{}"

    ledger.evaluate = evaluate  # type: ignore[method-assign]
    with pytest.raises(UnreadableError) as caught:
        await ledger.read(catalogue.TASK.key(TASK))
    assert is_unreadable(caught.value)
    assert not is_unreadable(LedgerError("another"))


async def test_a_balance_needs_no_specification(hub: WorldHub) -> None:
    standing = Standing(
        task=EVIL,
        organisation="alpha",
        stake=3,
        required=3,
        reputation=500,
        debt=0,
        absences=0,
        suspended_until=0,
        earned=0,
        slashed=0,
    )
    hub.world.force("", catalogue.STANDING.key(EVIL, "alpha"), standing.encode())
    stakes = (await accounts.read_balance(hub.ledger("alpha"), "alpha"))["stakes"]
    assert isinstance(stakes, dict)
    assert list(stakes) == [EVIL]
    assert (await accounts.read_balance(hub.ledger("beta"), "beta"))["stakes"] == {}


async def test_the_audit_verifies_the_other_tasks_and_then_fails_with_the_record_s_name(hub: WorldHub) -> None:
    told: list[str] = []
    with pytest.raises(
        VerificationError, match=r"^step \d+, [a-z ]+: (block \d+, transaction \d+: )?record task/evil: BFL301 Task: "
    ):
        await verify_records(hub.ledger("alpha"), history_of(hub), told.append)
    assert [line[:20] for line in told] == ["not as it must be: s", "task heart: 2 versio"]
    assert "step 9, openings: block " in told[0]
    assert ": record task/evil: BFL301" in told[0]


async def test_the_audit_names_everything_that_is_wrong_in_several_tasks(hub: WorldHub) -> None:
    ledger, key = hub.ledger("alpha"), catalogue.MODEL.key(TASK, 1)
    model = await ledger.read(catalogue.MODEL.key(TASK, 1))
    hub.world.force("", key, model.model_copy(update={"scale": -7}).encode())
    with pytest.raises(
        VerificationError,
        match=r"record task/evil: .*; step 12, versions: block .*: task heart, version 1: divisor or scale",
    ):
        await verify_records(ledger, history_of(hub), lambda line: None)


async def test_a_task_whose_initial_model_is_not_uploaded_yet_is_no_fault(hub: WorldHub) -> None:
    spec, _ = make_spec("young")
    await hub.submit("coordinator", "CreateTask", spec.encode())
    history = history_of(hub)
    told: list[str] = []
    with pytest.raises(VerificationError) as caught:
        await verify_records(hub.ledger("alpha"), history, told.append)
    assert "young" not in str(caught.value)
    assert "task young: its initial model has not been uploaded, no round has opened" in told


async def test_an_initial_model_that_is_missing_after_a_round_has_opened_is_a_fault(hub: WorldHub) -> None:
    (chunk,) = make_spec()[0].initial_model.chunks
    hub.world.expire(catalogue.MODEL_COLLECTION, catalogue.model_chunk_key(TASK, chunk))
    model = Model.decode(hub.world.get(catalogue.MODEL.key(TASK, 0)) or b"")
    assert model.version == 0
    with pytest.raises(VerificationError, match=r"task heart, initial model: chunk .* is not on the ledger"):
        await verify_records(hub.ledger("alpha"), history_of(hub), lambda line: None)
