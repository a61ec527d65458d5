"""Every recorded case gets the code that a real Fabric peer gave it, and a planted difference in any parser shows."""

from __future__ import annotations

from collections import Counter

import pytest

from blockfl.fabric.validate import SignatureCache
from support import corpus
from support.corpus import STOPPED, recorded_verdicts, replay
from support.corpus_world import corpus_config
from support.planted import PLANTED, forget

MINIMUM = 10_000
SOME = 50
STEPS = (SOME, 7, 1)
"""A planted difference is looked for in few cases first."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", corpus.all_counts())
def test_every_case_gets_the_code_that_a_real_peer_gave_it(kind: str) -> None:
    answers = list(replay({kind}))
    assert [str(one) for one in answers if one is not None] == []
    assert len(answers) == corpus.all_counts()[kind]


def test_some_cases_of_every_kind_get_the_code_that_a_real_peer_gave_them() -> None:
    assert [str(one) for one in replay(every=SOME) if one is not None] == []


def test_the_recording_holds_every_kind_and_many_codes() -> None:
    kinds = Counter(one.kind for one in recorded_verdicts())
    codes = Counter(one.code for one in recorded_verdicts())
    assert kinds == corpus.all_counts()
    assert kinds.total() >= MINIMUM
    assert min(kinds.values()) >= 40
    assert len(codes) >= 15
    assert codes[0] > 3000
    assert codes[STOPPED] <= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_in_a_parser_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = PLANTED[name]
    config = corpus_config()
    forget(config)
    planted.plant(monkeypatch)
    monkeypatch.setattr(corpus, "_SIGNATURES", SignatureCache())
    try:
        assert any(one for every in STEPS for one in replay(planted.kinds, every))
    finally:
        forget(config)
