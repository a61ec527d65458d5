"""The callers that docs/protocol.md gives each transaction are those that the contract lets call it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.protocol import catalogue
from blockfl.protocol.assessment import Assessment, Effect
from blockfl.protocol.blob import split_blob
from blockfl.protocol.records import Blob
from blockfl.protocol.seal import encode_public_key
from support.credit_examples import make_credit_examples
from support.federation import make_consortium
from support.paid_task import PaidTask, make_paid_spec
from support.protocol_page import TRANSACTIONS, called
from support.world import Refused, World

SEALERS = ("coordinator", "regulator")
"""The committee of the round."""
TRANSIENTS = {
    **dict.fromkeys(("UploadChunk", "UploadModelChunk", "UploadSumChunk"), "chunk"),
    "SettleWrap": "ephemeral_key",
}
"""The transient field of the transactions that have one."""
NOT_YOU = {"BFL201", "BFL202", "BFL203", "BFL206", "BFL207", "BFL613"}
"""What is refused because of who calls."""


CALLS: Mapping[str, tuple[str, ...]] = {
    "RegisterCommitteeKey": (encode_public_key(X25519PrivateKey.from_private_bytes(b"9" * 32)),),
    "WithdrawCertificate": ("ab" * 32,),
    "EndTask": ("lungs", "wrong columns"),
    "Enrol": ("lungs", "150"),
    "OpenRound": ("lungs", "2"),
    "UploadChunk": ("lungs", "1", "0"),
    "JudgeUpdate": ("lungs", "1", "alpha"),
    "ClaimWrap": ("lungs", "1", "alpha"),
    "SettleWrap": ("lungs", "1", "alpha", "regulator"),
    "RequestErasure": ("lungs",),
    "EraseUpdate": ("lungs", "1", "alpha"),
    "CloseRound": ("lungs", "1"),
    "PublishModel": ("lungs", "1", "0" * 64),
    "AbandonRound": ("lungs", "1"),
    "Grant": ("gift", "alpha", "1"),
    "Transfer": ("rent", "beta", "1"),
    "Withdraw": ("lungs",),
    "ScoreRound": ("lungs", "1"),
    "AppraiseVersion": ("lungs", "0"),
    "OverturnPenalty": ("lungs", "1", "alpha"),
    "SettleRound": ("lungs", "1"),
}
"""Arguments for a round of which alpha is a part; the others follow from records."""


@pytest.fixture(scope="module")
def answers() -> Mapping[str, Mapping[str, str]]:
    """By transaction and caller: the code with which the caller is refused because of who it is, or ""."""
    return asyncio.run(ask_as_everybody())


def make_assessment(organisation: str) -> bytes:
    """What regulator says of an update of the task lungs."""
    return Assessment(
        task="lungs",
        round=1,
        organisation=organisation,
        member="regulator",
        base_loss_micro=1,
        loss_micro=1,
        assessed_at_ms=0,
    ).encode()


async def close_round_of_everybody(world: World) -> PaidTask:
    """A round that waits for its model: gamma is not of its task, and university not of its committee."""
    spec, model = make_paid_spec(task="lungs")
    effect = Effect(assessors=("regulator",), tolerance_micro=0)
    spec = spec.model_copy(update={"institutions": ("alpha", "beta", "delta"), "effect": effect})
    task = PaidTask(world, world.consortium, world.signers, world.opening_keys, (spec, model))
    task.world, task.file = world, model
    await world.submit("coordinator", "RegisterConsortium", world.consortium.encode())
    for name in SEALERS:
        await world.submit(name, "RegisterCommitteeKey", encode_public_key(world.opening_keys[name]))
    task.consortium = world.consortium
    await task.create()
    await task.fund()
    await task.enrol()
    await task.open(1)
    for name in spec.institutions:
        await task.submit(name)
        await world.submit(name, "UploadChunk", "lungs", "1", "0", transient={"chunk": task.sealed[1, name][1][0]})
        await world.submit("regulator", "JudgeUpdate", "lungs", "1", name, endorsers=SEALERS)
        await world.submit("regulator", "AssessUpdate", make_assessment(name))
    await task.close(1)
    return task


async def attest_sum(task: PaidTask) -> Blob:
    """Attest the sum of the round, which was uploaded before."""
    total = await task.total(1)
    blob, _ = split_blob(total)
    for digest in blob.chunks:
        place, shown = ("lungs", "1", digest), {"chunk": total}
        await task.world.submit("coordinator", "UploadSumChunk", *place, transient=shown, endorsers=SEALERS)
    await task.world.submit("coordinator", "AttestAggregate", "lungs", "1", blob.encode(), endorsers=SEALERS)
    return blob


def settle_with_penalty(world: World) -> None:
    """Put a settlement on the ledger that has a penalty for alpha."""
    settlement = make_credit_examples()["settlement"].model_copy(update={"task": "lungs"})
    assert [one.organisation for one in settlement.outcomes if one.penalty] == ["alpha"]  # type: ignore[attr-defined]
    world.force("", catalogue.SETTLEMENT.key("lungs", 1), settlement.encode())
    world.now_ms = settlement.settled_at_ms  # type: ignore[attr-defined]


def make_calls(task: PaidTask, total: Blob) -> Mapping[str, tuple[str | bytes, ...]]:
    """The arguments of every transaction; what follows the name in a key distinguishes two calls of one."""
    return {
        **CALLS,
        "RegisterConsortium": (task.consortium.model_copy(update={"sequence": 2}).encode(),),
        "CreateTask": (make_paid_spec(task="kidneys")[0].encode(),),
        "UploadModelChunk": ("lungs", task.spec.initial_model.chunks[0]),
        "UploadModelChunk of a sum": ("lungs", "0" * 64),
        "SubmitUpdate": (task.sealed[1, "alpha"][0].encode(),),
        "UploadSumChunk": ("lungs", "1", "0" * 64),
        "AttestAggregate": ("lungs", "1", total.encode()),
        "ReportMetrics": (task.metrics("alpha", 0, task.file).encode(),),
        "AssessUpdate": (make_assessment("alpha"),),
    }


async def ask_as_everybody() -> Mapping[str, Mapping[str, str]]:
    """Every transaction, simulated as every organisation calls it."""
    world = World()
    task = await close_round_of_everybody(world)
    calls = make_calls(task, await attest_sum(task))
    settle_with_penalty(world)
    world.add_organisation("omega", 50)
    return {
        call: {caller: await ask(world, caller, call.split()[0], *arguments) for caller in world.signers}
        for call, arguments in calls.items()
    }


async def ask(world: World, caller: str, function: str, *arguments: str | bytes) -> str:
    """The code with which a caller is refused because of who it is, or ""."""
    transient = {TRANSIENTS[function]: b"x"} if function in TRANSIENTS else {}
    try:
        await world.simulate("regulator", caller, function, *arguments, transient=transient)
    except Refused as refusal:
        code = refusal.text[:6]
        # An upload goes to the caller's own update, so that of others it knows nothing.
        is_own = function == "UploadChunk" and code == "BFL114"
        return code if code in NOT_YOU or is_own else ""
    return ""


def list_callers(cell: str, call: str) -> set[str]:
    """Who may call by the words of the column, in the round of the fixture."""
    consortium = make_consortium()
    members = {one.organisation for one in consortium.members}
    who = {
        "a member of the round's committee": {"coordinator", "regulator"},
        "a member that the record names": members,
        "a member": members,
        "a committee member": set(consortium.committee),
        "an assessor of the round": {"regulator"},
        "the coordinator": {"coordinator"},
        "the coordinator for the initial model": {"coordinator"} if call == "UploadModelChunk" else set(),
        "an institution of the task": {"alpha", "beta", "delta"},
        "the institution that the header names": {"alpha"},
        "the institution whose update it is": {"alpha"},
    }
    allowed: set[str] = set()
    for one in cell.split("; "):
        words, _, narrower = one.partition(", ")
        allowed |= who[words] - ({"alpha"} if narrower == "not in its own case" else set())
    return allowed


@pytest.mark.parametrize("row", TRANSACTIONS, ids=lambda row: row[0])
def test_a_transaction_is_for_the_callers_that_its_row_names(
    answers: Mapping[str, Mapping[str, str]], row: list[str]
) -> None:
    function, _ = called(row[0])
    calls = [call for call in answers if call.split()[0] == function]
    assert calls
    for call in calls:
        allowed = {caller for caller, code in answers[call].items() if not code}
        # What these two are about is the caller's own, which is alpha's here.
        others = {"beta", "delta"} if function in ("UploadChunk", "ReportMetrics") else set()
        assert allowed - others == list_callers(row[1], call) - others
