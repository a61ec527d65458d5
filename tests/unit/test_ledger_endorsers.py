"""What a client makes of endorsers that lag behind, do not answer, or refuse: a scripted gateway instead of peers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from blockfl.fabric.client.gateway import Committed
from blockfl.fabric.client.status import absent_organisations
from blockfl.fabric.errors import EndorseError, ErrorDetail, EvaluateError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import create_private_key, private_key_pem
from blockfl.ledger import client, endorsers
from blockfl.ledger.client import Ledger
from blockfl.ledger.endorsers import Endorsers
from blockfl.ledger.errors import LedgerError, RefusedError, UnreachableError
from blockfl.ledger.event import Event
from blockfl.ledger.memory import Memory
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Notice, Round, Update
from support.federation import make_consortium, make_federation

REFUSED = "chaincode response 500, BFL114 there is no update"
DIFFERS = "ProposalResponsePayloads do not match"
GONE = "rpc error: code = Unavailable desc = connection refused"
Failure = dict[str, str] | None
JUDGED = Update(
    task="heart",
    round=1,
    organisation="alpha",
    header_digest="0" * 64,
    state="accepted",
    code="",
    reason="",
    norm_l2_squared_bits=1,
    norm_linf_bits=1,
    submitted_at_ms=1,
    judged_at_ms=2,
)
NOTICE = Notice(task="heart", round=1, organisation="alpha", detail="")
RECORD: Any = NOTICE
"""Stands for any record that a call sends."""


def endorse_error(answers: dict[str, str], status: grpc.StatusCode = grpc.StatusCode.ABORTED) -> EndorseError:
    details = [ErrorDetail(address="127.0.0.1:1", msp_id=name, message=text) for name, text in answers.items()]
    return EndorseError("not endorsed", status=status, details=details)


class ScriptedGateway:
    """Answers each endorsement as the script says: None is success, otherwise who said what."""

    def __init__(self, script: Sequence[Failure | EndorseError], heights: dict[str, list[int]] | None = None) -> None:
        self.script = list(script)
        self.heights = heights or {}
        self.asked: list[tuple[str, ...]] = []
        self.evaluated: list[str] = []
        self.answers: list[bytes | Exception] = []

    def propose(self, *arguments: Any, **_: Any) -> Any:
        return arguments

    async def endorse(self, proposal: Any, organisations: Sequence[str] = ()) -> Any:
        self.asked.append(tuple(organisations))
        failure = self.script.pop(0)
        if isinstance(failure, EndorseError):
            raise failure
        if failure is not None:
            raise endorse_error(failure)
        return proposal

    async def commit(self, endorsed: Any) -> Committed:
        return Committed(payload=b"[" + JUDGED.encode() + b"]", transaction_id="1", block_number=1)

    async def peer_height(self, organisation: str) -> int:
        heights = self.heights.get(organisation, [5])
        return heights.pop(0) if len(heights) > 1 else heights[0]

    async def evaluate(self, _: str, function: str, *arguments: Any, **__: Any) -> bytes:
        self.evaluated.append(function)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything happens at once; what is waited for is in the script."""
    monkeypatch.setattr(endorsers, "_SECOND_THOUGHTS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(endorsers, "_NO_PLAN_PAUSE_S", 0.0)
    monkeypatch.setattr(endorsers, "_POLL_S", 0.0)
    monkeypatch.setattr(client, "FETCHING_S", (0.0, 0.0))
    monkeypatch.setattr(client, "writes_anything", lambda _: True)


@pytest.fixture
def make_ledger(tmp_path: Path) -> Callable[[ScriptedGateway], Ledger]:
    """A client of alpha, an institution, whose gateway is scripted."""
    authority = Authority.create("ca", "alpha")
    key = create_private_key()
    (tmp_path / "key.pem").write_bytes(private_key_pem(key))
    pem = authority.issue(key.public_key(), common_name="agent", unit="client")
    (tmp_path / "certificate.pem").write_bytes(pem)
    (tmp_path / "roots.pem").write_bytes(authority.certificate_pem)
    profile = ConnectionProfile(
        network="heart-network",
        channel="federation",
        contract="blockfl",
        organisation="alpha",
        endpoint="127.0.0.1:1",
        tls_roots=str(tmp_path / "roots.pem"),
        certificate=str(tmp_path / "certificate.pem"),
        private_key=str(tmp_path / "key.pem"),
    )

    def make(gateway: ScriptedGateway) -> Ledger:
        ledger = Ledger(profile)
        ledger.gateway = gateway  # type: ignore[assignment]
        ledger._endorsers = Endorsers(gateway, "alpha")  # type: ignore[arg-type]
        ledger._consortium = make_consortium()
        return ledger

    return make


Make = Callable[[ScriptedGateway], Ledger]
COMMITTEE = ("coordinator", "regulator", "university")


class Endorsed:
    """The result of a proposal; nothing of it is looked at."""

    envelope = b""
    transaction_id = "1"


@pytest.fixture(autouse=True)
def endorsed(monkeypatch: pytest.MonkeyPatch) -> None:
    endorse = ScriptedGateway.endorse

    async def succeed(self: ScriptedGateway, proposal: Any, organisations: Sequence[str] = ()) -> Any:
        await endorse(self, proposal, organisations)
        return Endorsed()

    monkeypatch.setattr(ScriptedGateway, "endorse", succeed)


async def test_a_refusal_of_a_peer_that_was_behind_is_asked_again_when_it_has_caught_up(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"beta": REFUSED}, None], {"alpha": [9], "beta": [7, 8, 9]})
    await make_ledger(gateway).submit("OpenRound")
    assert gateway.heights["beta"] == [9], "it was waited for"
    assert len(gateway.asked) == 2


async def test_a_refusal_of_the_own_peer_counts_at_once(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"alpha": REFUSED}])
    with pytest.raises(RefusedError) as refused:
        await make_ledger(gateway).submit("OpenRound")
    assert refused.value.code is Code.UPDATE_UNKNOWN
    assert len(gateway.asked) == 1


async def test_a_refusal_that_stands_is_told_in_the_end(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"beta": REFUSED}] * 4)
    with pytest.raises(RefusedError):
        await make_ledger(gateway).submit("OpenRound")
    assert len(gateway.asked) == 4


async def test_peers_that_come_to_another_result_are_asked_again_more_often(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"beta": DIFFERS}] * 6 + [None])
    await make_ledger(gateway).submit("OpenRound")
    assert len(gateway.asked) == 7


async def test_a_gateway_that_does_not_know_the_peers_yet_is_asked_again(make_ledger: Make) -> None:
    error = EndorseError("no combination of peers can be derived", status=grpc.StatusCode.FAILED_PRECONDITION)
    gateway = ScriptedGateway([error, error, None])
    await make_ledger(gateway).submit("OpenRound")
    assert len(gateway.asked) == 3


async def test_a_peer_that_does_not_answer_is_no_reason_to_ask_again(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"beta": GONE}])
    with pytest.raises(UnreachableError):
        await make_ledger(gateway).submit("OpenRound")


async def test_a_peer_behind_is_waited_for_although_another_one_does_not_answer(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"regulator": GONE, "university": REFUSED}, {"regulator": GONE}, None])
    await make_ledger(gateway).upload_chunk("heart", 1, 0, b"chunk")
    assert gateway.asked == [COMMITTEE, COMMITTEE, ("coordinator", "university")]


async def test_a_committee_member_that_does_not_answer_is_left_out_and_remembered(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"regulator": GONE}, None, None])
    ledger = make_ledger(gateway)
    await ledger.upload_chunk("heart", 1, 0, b"chunk")
    await ledger.upload_chunk("heart", 1, 1, b"chunk")
    assert gateway.asked == [COMMITTEE, ("coordinator", "university"), ("coordinator", "university")]


async def test_a_gateway_that_knows_no_peer_of_a_member_names_it(make_ledger: Make) -> None:
    text = "failed to find any endorsing peers for org(s): university"
    gateway = ScriptedGateway([EndorseError(text, status=grpc.StatusCode.UNAVAILABLE), None])
    await make_ledger(gateway).upload_chunk("heart", 1, 0, b"chunk")
    assert gateway.asked[1] == ("coordinator", "regulator")


@pytest.mark.parametrize("absent", [("north-west",), ("fed",), ("found", "org.example")])
def test_only_the_organisations_that_the_gateway_lists_are_absent(absent: tuple[str, ...]) -> None:
    text = (
        f"cannot endorse Put of app: failed to find any endorsing peers for org(s): {', '.join(absent)} (UNAVAILABLE)"
    )
    assert absent_organisations(EndorseError(text, status=grpc.StatusCode.UNAVAILABLE)) == set(absent)
    assert not absent_organisations(EndorseError(text, status=grpc.StatusCode.ABORTED))


async def test_one_member_that_refuses_stops_nothing_that_the_threshold_agrees_on(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"university": REFUSED}] * 4 + [None, None])
    ledger = make_ledger(gateway)
    await ledger.upload_chunk("heart", 1, 0, b"chunk")
    await ledger.upload_chunk("heart", 1, 1, b"chunk")
    assert gateway.asked[-2:] == [("coordinator", "regulator"), COMMITTEE], "who has answered is asked again"


async def test_one_member_that_answers_first_and_otherwise_stops_nothing(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"coordinator": DIFFERS, "university": DIFFERS}] * 8 + [None, None])
    ledger = make_ledger(gateway)
    await ledger.upload_chunk("heart", 1, 0, b"chunk")
    await ledger.upload_chunk("heart", 1, 1, b"chunk")
    assert gateway.asked[-2:] == [("coordinator", "university"), COMMITTEE], "who has answered is asked again"


async def test_members_of_whom_no_two_agree_do_not_reach_the_threshold(make_ledger: Make) -> None:
    gateway = ScriptedGateway(
        [{"coordinator": DIFFERS, "university": DIFFERS}] * 8 + [{"university": DIFFERS}] * 8 + [None]
    )
    with pytest.raises(UnreachableError, match="do not match"):
        await make_ledger(gateway).upload_chunk("heart", 1, 0, b"chunk")
    assert len(gateway.script) == 1


async def test_two_members_that_refuse_decide(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"university": REFUSED, "regulator": REFUSED}] * 4)
    with pytest.raises(RefusedError):
        await make_ledger(gateway).upload_chunk("heart", 1, 0, b"chunk")


async def test_two_members_that_do_not_answer_are_too_many(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"university": GONE, "regulator": GONE}])
    with pytest.raises(UnreachableError):
        await make_ledger(gateway).upload_chunk("heart", 1, 0, b"chunk")


async def test_sums_go_to_every_member_and_to_a_majority_when_some_are_away(make_ledger: Make) -> None:
    everybody = tuple(member.organisation for member in make_consortium().members)
    gateway = ScriptedGateway([{"beta": GONE, "gamma": GONE, "delta": GONE}, None])
    await make_ledger(gateway).upload_model_chunk("heart", "0" * 64, b"chunk")
    assert gateway.asked == [everybody, ("alpha", *COMMITTEE)]
    gateway = ScriptedGateway([dict.fromkeys(("beta", "gamma", "delta", "regulator"), GONE)])
    with pytest.raises(UnreachableError):
        await make_ledger(gateway).upload_model_chunk("heart", "0" * 64, b"chunk")


async def test_as_many_members_judge_as_the_threshold_and_the_third_is_not_asked(make_ledger: Make) -> None:
    gateway = ScriptedGateway([None])
    (judged,) = await make_ledger(gateway).judge_update("heart", 1, "alpha")
    assert judged.state == "accepted"
    assert gateway.asked == [COMMITTEE[:2]]


async def test_another_member_is_asked_in_the_place_of_one_that_does_not_answer(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"regulator": GONE}, None, None])
    ledger = make_ledger(gateway)
    await ledger.judge_update("heart", 1, "alpha")
    await ledger.judge_update("heart", 1, "beta")
    assert gateway.asked == [COMMITTEE[:2], ("coordinator", "university"), ("coordinator", "university")]


async def test_another_member_is_asked_in_the_place_of_one_whose_refusal_stands(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"regulator": REFUSED}] * 4 + [None])
    await make_ledger(gateway).judge_update("heart", 1, "alpha")
    assert gateway.asked[-2:] == [COMMITTEE[:2], ("coordinator", "university")]


async def test_where_two_differ_all_are_asked_and_the_two_that_agree_are_enough(make_ledger: Make) -> None:
    first, all_of_them = {"regulator": DIFFERS}, {"regulator": DIFFERS, "university": DIFFERS}
    gateway = ScriptedGateway([first] * 8 + [all_of_them] * 8 + [None])
    await make_ledger(gateway).judge_update("heart", 1, "alpha")
    assert [gateway.asked[7], gateway.asked[8], gateway.asked[16]] == [COMMITTEE[:2], COMMITTEE, COMMITTEE[1:]]


async def test_a_refusal_of_as_many_as_leave_too_few_is_told_and_nobody_else_is_asked(make_ledger: Make) -> None:
    gateway = ScriptedGateway([{"coordinator": REFUSED, "regulator": REFUSED}] * 4)
    with pytest.raises(RefusedError):
        await make_ledger(gateway).judge_update("heart", 1, "alpha")
    assert set(gateway.asked) == {COMMITTEE[:2]}


def test_an_organisation_asks_itself_first_so_that_the_work_is_spread() -> None:
    gateway: Any = ScriptedGateway([])
    chosen = {one: Endorsers(gateway, one).choose_few(COMMITTEE, 2) for one in (*COMMITTEE, "alpha")}
    assert chosen == {
        "coordinator": ("coordinator", "regulator"),
        "regulator": ("regulator", "university"),
        "university": ("university", "coordinator"),
        "alpha": ("coordinator", "regulator"),
    }


async def test_votes_go_to_a_majority_of_the_members(make_ledger: Make) -> None:
    gateway = ScriptedGateway([None])
    await make_ledger(gateway).publish_model("heart", 1, "0" * 64)
    assert gateway.asked == [("alpha", "beta", "coordinator", "delta")]


def make_round(state: str) -> Round:
    return make_federation().round.model_copy(update={"state": state})


def tell(transaction_id: str) -> Event:
    return Event(name="RoundOpened", notice=NOTICE, block_number=1, transaction_id=transaction_id)


async def test_events_of_the_own_transactions_are_known(make_ledger: Make) -> None:
    ledger = make_ledger(ScriptedGateway([None]))
    assert not ledger.is_own(tell("1"))
    await ledger.submit("OpenRound")
    assert (ledger.is_own(tell("1")), ledger.is_own(tell("2"))) == (True, False)


async def test_a_record_that_stays_as_it_is_is_read_once_and_one_that_may_change_each_time(make_ledger: Make) -> None:
    gateway = ScriptedGateway([])
    ledger, key = make_ledger(gateway), catalogue.ROUND.key("heart", 1)
    closed, published = make_round("closed"), make_round("published")
    gateway.answers = [closed.encode(), published.encode()]
    assert [await ledger.read(key) for _ in range(4)] == [closed, published, published, published]
    with pytest.raises(IndexError):
        await ledger.read(catalogue.ROUND.key("heart", 2))


def test_a_client_forgets_what_it_has_not_asked_for_longest() -> None:
    memory, round_ = Memory(), make_round("published")
    keys = [catalogue.ROUND.key("heart", number) for number in range(1, 258)]
    for key in keys[:-1]:
        memory.keep(key, round_)
    memory.find(keys[0])
    memory.keep(keys[-1], round_)
    assert [memory.find(key) is None for key in (*keys[:3], keys[-1])] == [False, True, False, False]


async def test_a_peer_that_never_catches_up_is_not_waited_for_for_ever(
    make_ledger: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endorsers, "_CATCH_UP_S", 0.05)
    gateway = ScriptedGateway([{"beta": REFUSED}], {"alpha": [9], "beta": [7]})
    with pytest.raises(UnreachableError, match="of the peers of beta one is still behind our own"):
        await make_ledger(gateway).submit("OpenRound")


async def test_members_that_are_behind_are_left_out_while_enough_are_left(
    make_ledger: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endorsers, "_CATCH_UP_S", 0.05)
    gateway = ScriptedGateway([{"university": REFUSED}, None], {"alpha": [9], "university": [7]})
    await make_ledger(gateway).upload_chunk("heart", 1, 0, b"chunk")
    assert gateway.asked == [COMMITTEE, ("coordinator", "regulator")]


async def test_a_refusal_counts_where_no_height_is_told(make_ledger: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An institution without a peer of its own knows no height to compare with."""

    async def refuse(_: ScriptedGateway, organisation: str) -> int:
        raise EvaluateError(f"no peer of {organisation}", status=grpc.StatusCode.UNAVAILABLE)

    monkeypatch.setattr(ScriptedGateway, "peer_height", refuse)
    with pytest.raises(RefusedError):
        await make_ledger(ScriptedGateway([{"beta": REFUSED}])).submit("OpenRound")


async def test_private_data_that_the_own_peer_is_still_fetching_are_waited_for(make_ledger: Make) -> None:
    missing = EvaluateError("BFL116 this peer does not hold sealed/x", status=grpc.StatusCode.UNKNOWN)
    gateway = ScriptedGateway([])
    gateway.answers = [missing, missing, b"chunk"]
    assert await make_ledger(gateway).read_model_chunk("heart", "0" * 64) == b"chunk"
    gateway.answers = [missing] * 3
    with pytest.raises(RefusedError, match="BFL116"):
        await make_ledger(gateway).read_model_chunk("heart", "0" * 64)


async def test_another_refusal_of_a_read_counts_at_once(make_ledger: Make) -> None:
    gateway = ScriptedGateway([])
    gateway.answers = [EvaluateError("BFL207 not a member", status=grpc.StatusCode.UNKNOWN)]
    with pytest.raises(LedgerError, match="BFL207"):
        await make_ledger(gateway).read_model_chunk("heart", "0" * 64)
    assert len(gateway.evaluated) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda ledger: ledger.open_round("heart", 1),
        lambda ledger: ledger.submit_update(RECORD),
        lambda ledger: ledger.close_round("heart", 1),
        lambda ledger: ledger.report_metrics(RECORD),
    ],
    ids=["open", "submit", "close", "report"],
)
async def test_what_a_majority_endorses_is_asked_of_a_majority_at_once_and_of_others_when_one_is_away(
    make_ledger: Make, call: Callable[[Ledger], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "decode_record", lambda *_: None)
    gateway = ScriptedGateway([{"beta": GONE}, None])
    await call(make_ledger(gateway))
    assert gateway.asked == [
        ("alpha", "beta", "coordinator", "delta"),
        ("alpha", "coordinator", "delta", "gamma", "regulator", "university"),
    ]
