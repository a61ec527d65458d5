"""The states of rounds: the contract against a model of them, on random transactions of random callers at random times.

Steps are wild (any transaction, caller, round and moment) or the next that honest members and institutions would take,
so that sequences reach every state. A transaction may also be held back after its endorsement and ordered later. Each
step checks that the contract refuses with the model's code or announces the model's event, and what must always hold.

The deep profile looks longer: ``make test TEST="tests/unit/test_round_states.py --hypothesis-profile deep"``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.economics import DEFAULT_ECONOMICS
from blockfl.protocol.opening import derive_opening
from blockfl.protocol.records import Model, Progress, Round, SignedHeader, Vote
from blockfl.protocol.submission import compose_place, compute_certificate_digest
from blockfl.protocol.sums import Sum
from reference import round_states as reference
from support.federation import COMMITTEE, INSTITUTIONS
from support.paid_task import DIMENSION, PaidTask, make_paid_spec
from support.world import CONFLICT, POLICY_FAILURE, VALID, Refused, Transaction, World

ROUNDS = 5
# Nobody is ever suspended, so that who takes part does not depend on what happened before.
HARMLESS = DEFAULT_ECONOMICS.model_copy(
    update={"equivocation": 0, "norm": 0, "seal": 0, "format": 0, "late": 0, "absence": 0, "reputation_floor": 0}
)
EVERYBODY = st.sampled_from((*INSTITUTIONS, *COMMITTEE))
MEMBERS = st.sampled_from((*COMMITTEE, *COMMITTEE, "alpha"))
KINDS = ("good", "other", "large")
DIGESTS = ("a" * 64, "b" * 64, "c" * 64)
SKIPPED = st.sets(st.sampled_from(INSTITUTIONS), max_size=2)
NUMBERS = st.integers(1, ROUNDS + 1)


class RoundStates(RuleBasedStateMachine):
    """The contract of a task that moves credits, and the model beside it; the committee recomputes sums."""

    check = "recompute"

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World()
        spec, initial = make_paid_spec(HARMLESS)
        spec = spec.model_copy(update={"rounds": ROUNDS, "check": self.check})
        self.task = PaidTask(
            self.world, self.world.consortium, self.world.signers, self.world.opening_keys, (spec, initial)
        )
        self.task.world = self.world
        self.run(self._prepare())
        times = spec.deadlines
        self.model = reference.Rounds(ROUNDS, 1000 * times.submit_s, 1000 * times.judge_s, 1000 * times.publish_s)
        self.signed: dict[tuple[int, str, str], tuple[SignedHeader, bytes]] = {}
        self.sums: dict[int, bytes] = {}
        self.held: list[tuple[Transaction, reference.Change]] = []
        self.final: dict[int, dict[str, bytes]] = {}

    async def _prepare(self) -> None:
        await self.task.register()
        await self.task.create()
        await self.task.fund()
        await self.task.enrol()

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self.runner.run(wait())

    def teardown(self) -> None:
        self.runner.close()

    # Doing something, and comparing

    def do(
        self,
        expected: reference.Outcome,
        caller: str,
        function: str,
        *arguments: str | bytes,
        transient: dict[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
        is_held: bool = False,
    ) -> None:
        said = [str(one) if isinstance(one, int) else one for one in arguments]
        transaction: Transaction | None = None
        refusal = said_instead = ""
        try:
            transaction = self.run(
                self.world.endorse(caller, function, *said, transient=transient, endorsers=endorsers)
            )
        except Refused as error:
            said_instead = f"{function} of {caller}: {error.text}"
            refusal = error.text.split()[0]
        if transaction is None:
            assert refusal == expected, f"{said_instead}; expected {expected}"
            return
        assert isinstance(expected, reference.Change), f"{function} of {caller} was not refused with {expected}"
        assert transaction.event == expected.event, function
        if is_held:
            self.held.append((transaction, expected))
        elif expected.event:
            assert self.world.commit(transaction) == VALID
            expected.apply()

    def some_round(self, number: int) -> int:
        """The first round, one that does not exist, or in two of four cases the last."""
        return {1: 1, ROUNDS + 1: self.model.last + 1}.get(number, self.model.last)

    def some_opened_round(self, number: int) -> int:
        return min(self.some_round(number), self.model.last)

    def sign(self, organisation: str, number: int, kind: str) -> tuple[SignedHeader, bytes]:
        """One of the headers that an institution could sign for a round, always the same bytes."""
        key = (number, organisation, kind)
        if organisation not in self.model.all[number].participants:
            signed, chunk = self.sign(organisation, 1, kind)
            return self.task.sign(signed.header.model_copy(update={"round": number})), chunk
        if key not in self.signed:
            values = np.full(DIMENSION, 32767, np.int16) if kind == "large" else self.task.values(organisation, number)
            header, (chunk,) = self.run(self.task.seal(organisation, number, values, KINDS.index(kind)))
            self.signed[key] = self.task.sign(header), chunk
        return self.signed[key]

    def total(self, number: int) -> bytes:
        """The sum of a closed round's accepted updates; bytes of their own for any other."""
        accepted = self.model.all[number].accepted
        if len(accepted) < reference.MINIMUM:
            return f"no sum of round {number}".encode()
        if number not in self.sums:
            self.sums[number] = self.run(self._sum(number, accepted))
        return self.sums[number]

    async def _sum(self, number: int, accepted: Sequence[str]) -> bytes:
        total = Sum(DIMENSION, committed=self.task.spec.is_committed)
        round_ = await self.task.round(number)
        for name in accepted:
            kind = self.model.all[number].updates[name].kind
            values = self.task.values(name, number)
            seed = self.task.seed(name, number, KINDS.index(kind))
            header = self.signed[number, name, kind][0].header
            place = compose_place(self.task.consortium, round_, name)
            total.add(values, derive_opening(values, seed, place, header.payload_digest).randomness)
        return total.encode()

    @initialize(skip=SKIPPED, steps=st.integers(1, 12))
    def begin(self, skip: set[str], steps: int) -> None:
        for _ in range(steps):
            self._go_on(skip, DIGESTS[0])

    # Time

    @rule(seconds=st.sampled_from((1, 20, 45)))
    def let_time_pass(self, seconds: int) -> None:
        self.world.now_ms += 1000 * seconds

    @rule(deadline=st.sampled_from(("submit_ms", "judge_ms", "publish_ms", "score_ms")), off_ms=st.integers(-1, 1))
    def go_to_a_deadline(self, deadline: str, off_ms: int) -> None:
        """Forward only, but for the tolerance that peers leave."""
        at_ms = getattr(self.model.all[self.model.last], deadline) + off_ms
        self.world.now_ms = max(at_ms, self.world.now_ms - 30_000)

    # Wild transactions

    @rule(caller=MEMBERS, number=NUMBERS)
    def open(self, caller: str, number: int) -> None:
        self.do(self.model.open(caller, number, self.world.now_ms), caller, "OpenRound", "heart", str(number))

    @rule(caller=st.sampled_from(INSTITUTIONS), number=NUMBERS, kind=st.sampled_from(KINDS), is_held=st.booleans())
    def submit(self, caller: str, number: int, kind: str, is_held: bool) -> None:
        number = self.some_opened_round(number)
        expected = self.model.submit(caller, number, kind, self.world.now_ms)
        signed, _ = self.sign(caller, number, kind)
        self.do(expected, caller, "SubmitUpdate", signed.encode(), is_held=is_held)

    @rule(caller=st.sampled_from(INSTITUTIONS), number=NUMBERS, kind=st.sampled_from(KINDS))
    def upload(self, caller: str, number: int, kind: str) -> None:
        number = self.some_opened_round(number)
        expected = self.model.upload(caller, number, kind, self.world.now_ms)
        _, chunk = self.sign(caller, number, kind)
        arguments = ("heart", str(number), "0")
        self.do(expected, caller, "UploadChunk", *arguments, transient={"chunk": chunk}, endorsers=COMMITTEE)

    @rule(caller=MEMBERS, number=NUMBERS, organisation=st.sampled_from(INSTITUTIONS), is_held=st.booleans())
    def judge(self, caller: str, number: int, organisation: str, is_held: bool) -> None:
        number = self.some_round(number)
        expected = self.model.judge(caller, number, organisation, self.world.now_ms)
        arguments = ("heart", str(number), organisation)
        self.do(expected, caller, "JudgeUpdate", *arguments, endorsers=COMMITTEE, is_held=is_held)

    @rule(caller=MEMBERS, number=NUMBERS, is_held=st.booleans())
    def close(self, caller: str, number: int, is_held: bool) -> None:
        number = self.some_round(number)
        expected = self.model.close(caller, number, self.world.now_ms)
        self.do(expected, caller, "CloseRound", "heart", str(number), is_held=is_held)

    @rule(caller=MEMBERS, number=NUMBERS, of=NUMBERS)
    def bring_sum(self, caller: str, number: int, of: int) -> None:
        number, of = self.some_round(number), self.some_opened_round(of)
        blob, (chunk,) = split_blob(self.total(of))
        expected = self.model.bring_sum(caller, number, of)
        arguments = ("heart", str(number), blob.digest)
        self.do(expected, caller, "UploadSumChunk", *arguments, transient={"chunk": chunk}, endorsers=COMMITTEE)

    @rule(caller=MEMBERS, of=NUMBERS, is_held=st.booleans())
    def disclose_sum(self, caller: str, of: int, is_held: bool) -> None:
        of = self.some_opened_round(of)
        blob, (chunk,) = split_blob(self.total(of))
        expected = self.model.disclose_sum(caller, of)
        shown = {"chunk": chunk}
        self.do(expected, caller, "UploadModelChunk", "heart", blob.digest, transient=shown, is_held=is_held)

    @rule(caller=MEMBERS, number=NUMBERS, of=NUMBERS)
    def attest(self, caller: str, number: int, of: int) -> None:
        number, of = self.some_round(number), self.some_opened_round(of)
        blob, _ = split_blob(self.total(of))
        expected = self.model.attest(caller, number, of)
        self.do(expected, caller, "AttestAggregate", "heart", str(number), blob.encode(), endorsers=COMMITTEE)

    @rule(caller=MEMBERS, number=NUMBERS, digest=st.sampled_from(DIGESTS), is_held=st.booleans())
    def vote(self, caller: str, number: int, digest: str, is_held: bool) -> None:
        number = self.some_round(number)
        expected = self.model.vote(caller, number, digest, self.world.now_ms)
        self.do(expected, caller, "PublishModel", "heart", str(number), digest, is_held=is_held)

    @rule(caller=MEMBERS, number=NUMBERS, is_held=st.booleans())
    def abandon(self, caller: str, number: int, is_held: bool) -> None:
        number = self.some_round(number)
        expected = self.model.abandon(caller, number, self.world.now_ms)
        self.do(expected, caller, "AbandonRound", "heart", str(number), is_held=is_held)

    @rule(caller=MEMBERS, number=NUMBERS)
    def score(self, caller: str, number: int) -> None:
        number = self.some_round(number)
        self.do(self.model.score(caller, number), caller, "ScoreRound", "heart", str(number), endorsers=COMMITTEE)

    @rule(caller=EVERYBODY, number=NUMBERS, is_held=st.booleans())
    def settle(self, caller: str, number: int, is_held: bool) -> None:
        number = self.some_round(number)
        expected = self.model.settle(caller, number, self.world.now_ms)
        self.do(expected, caller, "SettleRound", "heart", str(number), is_held=is_held)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def order_what_was_held_back(self, data: st.DataObject) -> None:
        """Whatever happened since: it counts as it was endorsed, or not at all."""
        transaction, change = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        if not change.event:
            return
        code = self.world.commit(transaction)
        assert code in (VALID, CONFLICT, POLICY_FAILURE)
        if code == VALID:
            change.apply()

    # The next step of an honest round

    @rule(skip=SKIPPED, steps=st.integers(1, 4), digest=st.sampled_from(DIGESTS))
    def go_on_honestly(self, skip: set[str], steps: int, digest: str) -> None:
        """What the committee and those institutions would do next that are not skipped."""
        for _ in range(steps):
            self._go_on(skip, digest)

    @rule(digest=st.sampled_from(DIGESTS))
    def go_on_a_step(self, digest: str) -> None:
        self._go_on(set(), digest)

    def _go_on(self, skip: set[str], digest: str) -> None:
        number = self.model.last
        round_ = self.model.all.get(number)
        if round_ is None or round_.state == "failed" or round_.is_settled:
            self.open("coordinator", number + 1)
        elif round_.state == "open":
            for name in INSTITUTIONS:
                if name not in skip and name in round_.participants and name not in self.model.withdrawn:
                    self._contribute(name, number)
            self.close_last("university")
        elif round_.state == "closed":
            self._publish(number, round_, digest)
        elif not round_.is_scored and self.world.now_ms <= round_.score_ms:
            expected = self.model.score("regulator", number)
            self.do(expected, "regulator", "ScoreRound", "heart", str(number), endorsers=COMMITTEE)
        else:
            expected = self.model.settle("gamma", number, self.world.now_ms)
            self.do(expected, "gamma", "SettleRound", "heart", str(number))

    def close_last(self, member: str) -> None:
        number, now = self.model.last, self.world.now_ms
        expected = self.model.close(member, number, now)
        self.do(expected, member, "CloseRound", "heart", str(number))
        if expected == "BFL106":
            self.world.now_ms = max(now + 1, self.model.all[number].judge_ms)

    def _publish(self, number: int, round_: reference.Round, digest: str) -> None:
        silent = [member for member in COMMITTEE if member not in round_.votes]
        if not round_.sum_by:
            blob, _ = split_blob(self.total(number))
            self.bring_sum("coordinator", number, number)
            if number > 1:
                self.bring_sum("coordinator", number, 1)
                self.attest("coordinator", number, 1)
            attested = self.model.attest("coordinator", number, number)
            arguments = ("heart", str(number), blob.encode())
            self.do(attested, "coordinator", "AttestAggregate", *arguments, endorsers=COMMITTEE)
        elif agreed := self.model.agreed(round_):
            self.disclose_sum("coordinator", number, False)
            named = next(member for member, said in round_.votes.items() if said == agreed)
            self.vote(named, number, agreed, False)
        elif silent:
            expected = self.model.vote(silent[0], number, digest, self.world.now_ms)
            self.do(expected, silent[0], "PublishModel", "heart", str(number), digest)
        else:
            self.world.now_ms = max(self.world.now_ms, round_.publish_ms + 1)
            expected = self.model.abandon("regulator", number, self.world.now_ms)
            self.do(expected, "regulator", "AbandonRound", "heart", str(number))

    def _contribute(self, name: str, number: int) -> None:
        now = self.world.now_ms
        known = self.model.all[number].updates.get(name)
        signed, chunk = self.sign(name, number, known.kind if known else "good")
        kind = known.kind if known else "good"
        self.do(self.model.submit(name, number, kind, now), name, "SubmitUpdate", signed.encode())
        uploaded = self.model.upload(name, number, kind, now)
        arguments = ("heart", str(number), "0")
        self.do(uploaded, name, "UploadChunk", *arguments, transient={"chunk": chunk}, endorsers=COMMITTEE)
        judged = self.model.judge("regulator", number, name, now)
        self.do(judged, "regulator", "JudgeUpdate", "heart", str(number), name, endorsers=COMMITTEE)

    # What always holds

    def read(self, prefix: str) -> dict[str, bytes]:
        return {key: self.world.get(key) or b"" for key, _ in self.world.scan(prefix, prefix + "\x7f")}

    @invariant()
    def rounds_are_as_the_model_has_them_and_at_most_one_is_open(self) -> None:
        rounds = [Round.decode(value) for value in self.read("round/heart/").values()]
        assert [one.round for one in rounds] == list(range(1, self.model.last + 1))
        assert sum(one.state == "open" for one in rounds) <= 1
        assert all(one.state in ("published", "failed") for one in rounds[:-1])
        for one in rounds:
            told = self.model.all[one.round]
            assert (one.state, one.failure == "abandoned") == (told.state, told.is_abandoned)
            assert (one.accepted, one.base_version) == (told.accepted, told.base)
            deadlines = (one.submit_deadline_ms, one.judge_deadline_ms, one.publish_deadline_ms)
            assert deadlines == (told.submit_ms, told.judge_ms, told.publish_ms)
            if one.state in ("closed", "published"):
                assert len(one.accepted) >= reference.MINIMUM
            votes = {vote.organisation: vote.digest for vote in map(Vote.decode, self._of("vote", one.round).values())}
            assert votes == told.votes

    @invariant()
    def versions_are_consecutive_and_each_follows_from_the_one_before(self) -> None:
        models = [Model.decode(value) for value in self.read("model/heart/").values()]
        assert [one.version for one in models] == list(range(len(models)))
        assert [one.round for one in models] == self.model.versions
        for before, after in pairwise(models):
            assert after.base_digest == before.digest
            assert len(after.voters) >= reference.THRESHOLD
        (progress,) = [Progress.decode(value) for value in self.read("progress/heart").values()]
        assert (progress.round, progress.version) == (self.model.last, len(models) - 1)
        assert progress.model_digest == models[-1].digest

    @invariant()
    def nothing_of_a_round_that_is_over_ever_changes(self) -> None:
        for number, round_ in self.model.all.items():
            if round_.state not in ("published", "failed"):
                continue
            kinds = ["round", "header", "update", "equivocation", "vote", "aggregate"]
            kinds += ["score", "settlement"] if round_.is_settled else []
            records = {key: value for kind in kinds for key, value in self._of(kind, number).items()}
            if round_.state == "published":
                records |= self.read(f"model/heart/{self.model.versions.index(number):06d}")
            before = self.final.setdefault(number, records)
            assert before == {key: records[key] for key in before}
            assert round_.is_settled or set(records) == set(before)
            self.final[number] = records

    @invariant()
    def no_sum_of_a_round_that_may_still_fail_can_be_read(self) -> None:
        held = self.world.snapshot()
        for number, total in self.sums.items():
            round_ = self.model.all[number]
            if round_.state == "failed" or not (round_.state == "published" or self.model.agreed(round_)):
                assert ("models", catalogue.model_chunk_key("heart", compute_digest(total))) not in held

    @invariant()
    def credits_neither_come_from_nowhere_nor_get_lost(self) -> None:
        self.task.check_conserved()

    def _of(self, kind: str, number: int) -> dict[str, bytes]:
        return self.read(f"{kind}/heart/{number:06d}")


class CommittedRoundStates(RoundStates):
    """The same with sums that everybody checks, and an institution that withdraws its only certificate."""

    check = "commitment"

    @precondition(lambda self: self.model.last >= 2)
    @rule(is_held=st.booleans())
    def withdraw_certificate(self, is_held: bool) -> None:
        """Delta's: three are left, as many as a round needs."""
        digest = compute_certificate_digest(self.task.signers["delta"].identity.certificate_pem.decode())
        self.do(self.model.withdraw_certificate("delta"), "delta", "WithdrawCertificate", digest, is_held=is_held)

    @precondition(lambda self: "delta" in self.model.withdrawn)
    @rule(number=NUMBERS, kind=st.sampled_from(KINDS))
    def go_on_with_a_withdrawn_certificate(self, number: int, kind: str) -> None:
        self.submit("delta", number, kind, False)
        self.upload("delta", number, kind)
        self.settle("delta", number, False)

    @invariant()
    def who_withdrew_its_certificate_is_in_no_later_round(self) -> None:
        for one in map(Round.decode, self.read("round/heart/").values()):
            names = tuple(part.organisation for part in one.participants)
            assert names == self.model.all[one.round].participants


# A hundred examples, as hypothesis would try, take minutes, and so does making a failing one smaller.
IS_DEEP = settings().max_examples > 100


def limit(examples: int) -> settings:
    return settings(
        max_examples=settings().max_examples if IS_DEEP else examples,
        stateful_step_count=80 if IS_DEEP else 50,
        deadline=None,
        phases=tuple(Phase) if IS_DEEP else (Phase.explicit, Phase.reuse, Phase.generate),
    )


TestRoundStates = pytest.mark.timeout(1800)(RoundStates.TestCase)
TestRoundStates.settings = limit(15)
TestCommittedRoundStates = pytest.mark.timeout(1800)(CommittedRoundStates.TestCase)
TestCommittedRoundStates.settings = limit(10)
