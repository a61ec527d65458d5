"""From a closed round to a version or to none: votes, their threshold, and when a round is given up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.protocol.aggregation import FEDAVG
from blockfl.protocol.blob import split_blob
from blockfl.protocol.codes import Code
from blockfl.protocol.moment import format_moment
from blockfl.protocol.publication import (
    abandon_round,
    attest_aggregate,
    cast_vote,
    check_not_failed,
    check_readable,
    create_aggregate,
    find_agreed,
    list_voters,
    publish_round,
)
from blockfl.protocol.records import Model, Progress, Vote
from blockfl.protocol.round import close_round
from blockfl.protocol.submission import create_update
from support.federation import COMMITTEE, INSTITUTIONS, NOW_MS, make_federation
from support.refusal import refused

FEDERATION = make_federation()
ROUND = FEDERATION.round
UPDATE = create_update(FEDERATION.update("alpha", np.zeros(FEDERATION.dimension, dtype=np.int16))[0], NOW_MS)
ACCEPTED = {name: UPDATE.model_copy(update={"organisation": name, "state": "accepted"}) for name in INSTITUTIONS}
CLOSED = close_round(ROUND, ACCEPTED, (), minimum_accepted=3, now_ms=NOW_MS + 1, aggregation=FEDAVG)
SUM = split_blob(b"sum")[0]
PENDING = create_aggregate(CLOSED)
ATTESTED = attest_aggregate(PENDING, CLOSED, SUM, "university", NOW_MS + 5)
PROGRESS = FEDERATION.progress.model_copy(update={"round": 1})
ONE, OTHER = "1" * 64, "2" * 64


def votes(**digests: str) -> dict[str, Vote]:
    return {name: cast_vote(CLOSED, ATTESTED, {}, name, digest, NOW_MS + 6) for name, digest in digests.items()}


class TestVoting:
    def test_a_vote_names_round_member_digest_and_time(self) -> None:
        vote = cast_vote(CLOSED, ATTESTED, votes(coordinator=OTHER), "regulator", ONE, NOW_MS + 7)
        assert vote == Vote(task="heart", round=1, organisation="regulator", digest=ONE, voted_at_ms=NOW_MS + 7)

    def test_the_same_vote_again_is_the_earlier_one_and_another_is_refused(self) -> None:
        earlier = votes(regulator=ONE)
        assert cast_vote(CLOSED, ATTESTED, earlier, "regulator", ONE, NOW_MS + 9) == earlier["regulator"]
        with refused(Code.ALREADY_SETTLED, f"regulator has voted for {ONE}"):
            cast_vote(CLOSED, ATTESTED, earlier, "regulator", OTHER, NOW_MS + 9)

    def test_only_the_rounds_own_committee_votes(self) -> None:
        round_ = CLOSED.model_copy(update={"committee": CLOSED.committee[:2]})
        with refused(Code.NOT_COMMITTEE, "(coordinator, regulator), got 'university'"):
            cast_vote(round_, ATTESTED, {}, "university", ONE, NOW_MS)

    def test_nobody_votes_before_the_sum_is_attested(self) -> None:
        with refused(Code.NOT_ATTESTED, "attest it first"):
            cast_vote(CLOSED, PENDING, {}, "regulator", ONE, NOW_MS)

    @pytest.mark.parametrize("state", ["open", "failed", "published"])
    def test_no_other_round_is_voted_on(self, state: str) -> None:
        with refused(Code.ROUND_NOT_CLOSED, state):
            cast_vote(CLOSED.model_copy(update={"state": state}), ATTESTED, {}, "regulator", ONE, NOW_MS)


class TestThreshold:
    def test_enough_equal_votes_make_the_next_version(self) -> None:
        cast = votes(university=ONE, regulator=ONE)
        made = publish_round(CLOSED, PROGRESS, ATTESTED, cast, ONE, NOW_MS + 7)
        assert made is not None
        published, advanced, model = made
        assert published == CLOSED.model_copy(update={"state": "published"})
        assert advanced == Progress(task="heart", round=1, version=1, model_digest=ONE)
        assert model == Model(
            task="heart",
            version=1,
            round=1,
            digest=ONE,
            base_digest=ROUND.base_digest,
            sum=SUM,
            scale=ROUND.scale,
            divisor=8,
            accepted=INSTITUTIONS,
            summed_by="university",
            voters=("regulator", "university"),
            published_at_ms=NOW_MS + 7,
        )

    def test_one_vote_or_different_votes_make_none(self) -> None:
        for cast in (votes(regulator=ONE), votes(regulator=ONE, university=OTHER)):
            assert publish_round(CLOSED, PROGRESS, ATTESTED, cast, ONE, NOW_MS) is None

    @given(st.dictionaries(st.sampled_from(COMMITTEE), st.sampled_from([ONE, OTHER])), st.integers(2, 3))
    def test_a_version_comes_with_the_threshold_and_not_before(self, said: dict[str, str], threshold: int) -> None:
        round_ = CLOSED.model_copy(update={"threshold": threshold})
        for digest in (ONE, OTHER):
            made = publish_round(round_, PROGRESS, ATTESTED, votes(**said), digest, NOW_MS)
            named = [name for name in COMMITTEE if said.get(name) == digest]
            assert list_voters(votes(**said), digest) == tuple(named)
            assert (made is not None) == (len(named) >= threshold)

    def test_of_three_members_one_can_neither_make_a_version_nor_stop_the_other_two(self) -> None:
        for liar, first in itertools.product(COMMITTEE, (True, False)):
            honest = votes(**{name: ONE for name in COMMITTEE if name != liar})
            cast = votes(**{liar: OTHER}) | honest if first else honest | votes(**{liar: OTHER})
            assert publish_round(CLOSED, PROGRESS, ATTESTED, cast, OTHER, NOW_MS) is None
            assert publish_round(CLOSED, PROGRESS, ATTESTED, cast, ONE, NOW_MS) is not None


class TestReadability:
    @given(st.dictionaries(st.sampled_from(COMMITTEE), st.sampled_from([ONE, OTHER])), st.integers(2, 3))
    def test_a_sum_is_readable_and_a_round_beyond_giving_up_with_the_threshold_and_not_before(
        self, said: dict[str, str], threshold: int
    ) -> None:
        round_, cast = CLOSED.model_copy(update={"threshold": threshold}), votes(**said)
        agreed = [one for one in (ONE, OTHER) if list(said.values()).count(one) >= threshold]
        assert find_agreed(round_, cast) == (agreed[0] if agreed else None)
        late = CLOSED.publish_deadline_ms + 1
        if agreed:
            check_readable(round_, ATTESTED, cast, SUM.chunks[0])
            with refused(Code.AGREED, agreed[0]):
                abandon_round(round_, cast, late)
        else:
            with refused(Code.NOT_AGREED, f"until {threshold} of its members"):
                check_readable(round_, ATTESTED, cast, SUM.chunks[0])
            assert abandon_round(round_, cast, late).failure == "abandoned"

    def test_what_is_not_the_attested_sum_of_a_closed_round_is_never_readable(self) -> None:
        cast = votes(regulator=ONE, university=ONE)
        with refused(Code.CHUNK_MISMATCH):
            check_readable(CLOSED, ATTESTED, cast, ONE)
        with refused(Code.NOT_ATTESTED):
            check_readable(CLOSED, PENDING, cast, SUM.chunks[0])
        with refused(Code.ROUND_NOT_CLOSED):
            check_readable(CLOSED.model_copy(update={"state": "published"}), ATTESTED, cast, SUM.chunks[0])


class TestAbandoning:
    def test_a_closed_round_is_given_up_once_its_time_is_over(self) -> None:
        now_ms = CLOSED.publish_deadline_ms + 1
        abandoned = abandon_round(CLOSED, votes(regulator=ONE, university=OTHER), now_ms)
        assert abandoned == CLOSED.model_copy(update={"state": "failed", "failure": "abandoned"})
        assert abandon_round(abandoned, {}, now_ms) == abandoned
        with refused(Code.PUBLISH_PENDING, f"until {format_moment(CLOSED.publish_deadline_ms)}"):
            abandon_round(CLOSED, {}, CLOSED.publish_deadline_ms)

    def test_no_other_round_is_given_up(self) -> None:
        late = CLOSED.publish_deadline_ms + 1
        with refused(Code.ROUND_NOT_CLOSED):
            abandon_round(ROUND, {}, late)
        with refused(Code.ALREADY_SETTLED):
            abandon_round(CLOSED.model_copy(update={"state": "published"}), {}, late)
        with refused(Code.TOO_FEW_ACCEPTED):
            abandon_round(close_round(ROUND, {}, (), minimum_accepted=3, now_ms=late, aggregation=FEDAVG), {}, late)

    def test_what_was_given_up_has_no_sum_and_no_model_for_another_reason_than_what_failed(self) -> None:
        check_not_failed(CLOSED)
        with refused(Code.ROUND_ABANDONED, "open the next round"):
            check_not_failed(abandon_round(CLOSED, {}, CLOSED.publish_deadline_ms + 1))
        with refused(Code.TOO_FEW_ACCEPTED, "open the next round"):
            check_not_failed(
                close_round(ROUND, {}, (), minimum_accepted=3, now_ms=ROUND.judge_deadline_ms, aggregation=FEDAVG)
            )

    @pytest.mark.parametrize("late_ms", [-1, 0, 1, 86_400_000])
    def test_the_time_to_publish_counts_from_the_judge_deadline_or_from_a_later_close(self, late_ms: int) -> None:
        closed = close_round(
            ROUND, ACCEPTED, (), minimum_accepted=3, now_ms=ROUND.judge_deadline_ms + late_ms, aggregation=FEDAVG
        )
        wanted = ROUND.judge_deadline_ms + max(0, late_ms) + 1000 * FEDERATION.task.spec.deadlines.publish_s
        assert closed.publish_deadline_ms == wanted
