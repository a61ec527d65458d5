"""The states of a task's rounds, a second time: told from docs/protocol.md, without the contract's code or records.

Each method is a transaction: it returns the code with which it must be refused, or what it changes, which is nothing
when the transaction repeats what is there already. ``Change.apply`` makes the change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

INSTITUTIONS = ("alpha", "beta", "delta", "gamma")
COMMITTEE = ("coordinator", "regulator", "university")
THRESHOLD, MINIMUM = 2, 3


@dataclass
class Update:
    """An institution's first header: which one, whether its chunk came, and what was judged."""

    kind: str
    is_uploaded: bool = False
    state: Literal["submitted", "accepted", "rejected"] = "submitted"
    has_equivocated: bool = False


@dataclass
class Round:
    """One round."""

    submit_ms: int
    judge_ms: int
    publish_ms: int
    base: int
    participants: tuple[str, ...] = INSTITUTIONS
    state: Literal["open", "closed", "published", "failed"] = "open"
    is_abandoned: bool = False
    updates: dict[str, Update] = field(default_factory=dict)
    accepted: tuple[str, ...] = ()
    sum_by: str = ""
    votes: dict[str, str] = field(default_factory=dict)
    is_scored: bool = False
    is_settled: bool = False
    score_ms: int = 0


@dataclass(frozen=True)
class Change:
    """What a transaction does that is not refused: nothing, or something that is announced."""

    event: str = ""
    apply: Callable[[], object] = lambda: None


Outcome = str | Change
NOTHING = Change()


@dataclass
class Rounds:
    """All rounds of a task.

    Args:
        rounds: How many the task has.
        submit_ms: Time to submit.
        judge_ms: Time to judge after that.
        publish_ms: Time to publish after that.
    """

    rounds: int
    submit_ms: int
    judge_ms: int
    publish_ms: int
    all: dict[int, Round] = field(default_factory=dict)
    versions: list[int] = field(default_factory=lambda: [0])
    kept: set[tuple[int, int]] = field(default_factory=set)
    readable: set[int] = field(default_factory=set)
    withdrawn: set[str] = field(default_factory=set)

    @property
    def last(self) -> int:
        """The last round opened."""
        return len(self.all)

    def open(self, caller: str, number: int, now: int) -> Outcome:
        """OpenRound."""
        if caller not in COMMITTEE:
            return "BFL202"
        before = self.all.get(self.last)
        if before and number == self.last and before.state == "open":
            return NOTHING
        if number > self.rounds:
            return "BFL108"
        if number != self.last + 1:
            return "BFL105"
        if before and before.state in ("open", "closed"):
            return "BFL107"
        if before and before.state == "published" and not before.is_settled:
            return "BFL606"
        end = now + self.submit_ms
        made = Round(end, end + self.judge_ms, end + self.judge_ms + self.publish_ms, base=len(self.versions) - 1)
        made.participants = tuple(name for name in INSTITUTIONS if name not in self.withdrawn)
        return Change("RoundOpened", lambda: self.all.setdefault(number, made))

    def submit(self, caller: str, number: int, kind: str, now: int) -> Outcome:
        """SubmitUpdate, one of several headers that the institution could have signed."""
        if caller in self.withdrawn:
            return "BFL208"
        round_ = self.all[number]
        first = round_.updates.get(caller)
        if first and first.kind == kind:
            return NOTHING
        if round_.state != "open" or now > round_.submit_ms:
            return "BFL104"
        if not first:
            return Change("UpdateSubmitted", lambda: round_.updates.setdefault(caller, Update(kind)))
        if first.has_equivocated:
            return NOTHING
        return Change("EquivocationRecorded", lambda: setattr(first, "has_equivocated", True))

    def upload(self, caller: str, number: int, kind: str, now: int) -> Outcome:
        """UploadChunk, the one chunk of one of these headers."""
        if caller in self.withdrawn:
            return "BFL208"
        round_ = self.all[number]
        update = round_.updates.get(caller)
        if not update:
            return "BFL114"
        if update.kind != kind:
            return "BFL304"
        if update.is_uploaded:
            return NOTHING
        if round_.state != "open" or now > round_.submit_ms:
            return "BFL104"
        return Change("ChunkUploaded", lambda: setattr(update, "is_uploaded", True))

    def judge(self, caller: str, number: int, organisation: str, now: int) -> Outcome:
        """JudgeUpdate."""
        if caller not in COMMITTEE:
            return "BFL202"
        round_ = self.all.get(number)
        update = round_.updates.get(organisation) if round_ else None
        if not round_ or not update:
            return "BFL114"
        if update.state != "submitted":
            return NOTHING
        if round_.state != "open":
            return "BFL104"
        if not update.is_uploaded and now <= round_.submit_ms:
            return "BFL115"
        verdict = "accepted" if update.is_uploaded and update.kind != "large" else "rejected"
        return Change("UpdateJudged", lambda: setattr(update, "state", verdict))

    def close(self, caller: str, number: int, now: int) -> Outcome:
        """CloseRound."""
        if caller not in COMMITTEE:
            return "BFL202"
        round_ = self.all.get(number)
        if not round_:
            return "BFL103"
        if round_.state != "open":
            return NOTHING
        unjudged = [one for one in round_.updates.values() if one.state == "submitted" and not one.has_equivocated]
        missing = len(round_.participants) - len(round_.updates)
        if now < round_.judge_ms and (unjudged or (missing and now < round_.submit_ms)):
            return "BFL106"
        honest = {name for name, one in round_.updates.items() if one.state == "accepted" and not one.has_equivocated}
        publish_ms = max(round_.judge_ms, now) + self.publish_ms

        def apply() -> None:
            round_.accepted = tuple(sorted(honest))
            round_.state = "closed" if len(honest) >= MINIMUM else "failed"
            round_.publish_ms = publish_ms

        return Change("RoundClosed" if len(honest) >= MINIMUM else "RoundFailed", apply)

    def bring_sum(self, caller: str, number: int, of: int) -> Outcome:
        """UploadSumChunk, the sum of round ``of`` as that of a round, for the committee alone."""
        if caller not in COMMITTEE:
            return "BFL202"
        if (number, of) in self.kept:
            return NOTHING
        if refusal := self._refuse(caller, number):
            return refusal
        if self.all[number].state != "closed":
            return "BFL107"
        return Change("SumChunkUploaded", lambda: self.kept.add((number, of)))

    def disclose_sum(self, caller: str, of: int) -> Outcome:
        """UploadModelChunk, the sum of round ``of``: the last round's, once enough members agree on its model."""
        if caller not in COMMITTEE:
            return "BFL202"
        if of in self.readable:
            return NOTHING
        round_ = self.all[self.last]
        if round_.state != "closed":
            return "BFL107"
        if not round_.sum_by:
            return "BFL502"
        if of != self.last:
            return "BFL304"
        return Change("ModelChunkUploaded", lambda: self.readable.add(of)) if self.agreed(round_) else "BFL508"

    def attest(self, caller: str, number: int, of: int) -> Outcome:
        """AttestAggregate, with the sum of round ``of``."""
        if refusal := self._refuse(caller, number):
            return refusal
        round_ = self.all[number]
        if round_.sum_by:
            return NOTHING if of == number else "BFL504"
        if (number, of) not in self.kept:
            return "BFL111"
        return Change("AggregateAttested", lambda: setattr(round_, "sum_by", caller)) if of == number else "BFL501"

    def vote(self, caller: str, number: int, digest: str, now: int) -> Outcome:
        """PublishModel."""
        if refusal := self._refuse(caller, number):
            return refusal
        round_ = self.all[number]
        if round_.state == "published":
            return NOTHING if digest == self.agreed(round_) else "BFL504"
        if not round_.sum_by:
            return "BFL502"
        if round_.votes.get(caller, digest) != digest:
            return "BFL504"
        is_enough = list((round_.votes | {caller: digest}).values()).count(digest) >= THRESHOLD
        is_published = is_enough and number in self.readable
        if caller in round_.votes and not is_published:
            return NOTHING

        def apply() -> None:
            round_.votes[caller] = digest
            if is_published:
                round_.state, round_.score_ms = "published", now + self.publish_ms
                self.versions.append(number)

        return Change("ModelPublished" if is_published else "ModelProposed", apply)

    def abandon(self, caller: str, number: int, now: int) -> Outcome:
        """AbandonRound."""
        if caller not in COMMITTEE:
            return "BFL202"
        round_ = self.all.get(number)
        if not round_:
            return "BFL103"
        if round_.is_abandoned:
            return NOTHING
        if round_.state != "closed":
            return {"failed": "BFL505", "published": "BFL504", "open": "BFL107"}[round_.state]
        if now <= round_.publish_ms:
            return "BFL507"
        if self.agreed(round_):
            return "BFL509"

        def apply() -> None:
            round_.state, round_.is_abandoned = "failed", True

        return Change("RoundAbandoned", apply)

    def score(self, caller: str, number: int) -> Outcome:
        """ScoreRound."""
        if caller not in COMMITTEE:
            return "BFL202"
        round_ = self.all.get(number)
        if not round_:
            return "BFL103"
        if round_.state in ("failed", "open"):
            return "BFL609" if round_.state == "failed" else "BFL107"
        if round_.is_settled and not round_.is_scored:
            return "BFL607"
        return NOTHING if round_.is_scored else Change("RoundScored", lambda: setattr(round_, "is_scored", True))

    def settle(self, caller: str, number: int, now: int) -> Outcome:
        """SettleRound, by any member."""
        if caller in self.withdrawn:
            return "BFL208"
        round_ = self.all.get(number)
        if not round_:
            return "BFL103"
        if round_.is_settled:
            return "BFL607"
        if round_.state != "published":
            return "BFL609" if round_.state == "failed" else "BFL107"
        if not round_.is_scored and now <= round_.score_ms:
            return "BFL605"
        return Change("RoundSettled", lambda: setattr(round_, "is_settled", True))

    def withdraw_certificate(self, caller: str) -> Outcome:
        """WithdrawCertificate, of the one that an institution uses, with itself."""
        if caller in self.withdrawn:
            return NOTHING
        return Change("CertificateWithdrawn", lambda: self.withdrawn.add(caller))

    def _refuse(self, caller: str, number: int) -> str:
        """Why a round can have no sum and no model."""
        if caller not in COMMITTEE:
            return "BFL202"
        round_ = self.all.get(number)
        if not round_:
            return "BFL103"
        if round_.state == "failed":
            return "BFL506" if round_.is_abandoned else "BFL505"
        return "BFL107" if round_.state == "open" else ""

    @staticmethod
    def agreed(round_: Round) -> str:
        """The model that enough members name, empty as long as they do not."""
        votes = list(round_.votes.values())
        return next((digest for digest in votes if votes.count(digest) >= THRESHOLD), "")
