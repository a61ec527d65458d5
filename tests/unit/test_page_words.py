"""What stands in a block, in words."""

from __future__ import annotations

import pytest

from blockfl.audit.entry import Entry
from blockfl.fabric.identity.policy import implicit_meta_policy, signature_policy
from blockfl.page.explorer import compare_values, describe_policy, show_bytes
from blockfl.page.rendering import Renderer
from blockfl.page.words import KEYS, describe_key, describe_sentence, list_news
from blockfl.protocol.catalogue import RECORDS, find_key
from blockfl.protocol.records import Notice
from support.federation import make_federation
from support.record_examples import make_examples


def entry(function: str, *, code: str = "VALID", event: str = "", notice: Notice | None = None) -> Entry:
    return Entry(
        block=3,
        index=0,
        tx_id="ab" * 32,
        kind="contract",
        function=function,
        submitter="alpha",
        code=code,
        event=event,
        announced=b"" if notice is None else notice.encode(),
        size_bytes=1,
    )


def notice(detail: str, organisation: str = "alpha") -> Notice:
    return Notice(task="heart", round=7, organisation=organisation, detail=detail)


def test_every_kind_of_record_has_its_words_and_no_other() -> None:
    assert set(KEYS) == {one.prefix for one in RECORDS.values()}


def test_every_key_is_told_with_all_its_parts() -> None:
    records = make_examples(make_federation()).values()
    for key in (find_key(record) for record in records if type(record) in RECORDS):
        words = describe_key(key)
        assert words != key
        assert all(str(part) in words for part in key.parts if len(str(part)) < 64), (key, words)
    assert describe_key("round/heart/000000") == "round 0 of heart"


@pytest.mark.parametrize("key", ["", "nothing/at/all", "round/heart", "round/heart/000001/more", "round"])
def test_a_key_of_no_known_kind_is_told_as_it_is(key: str) -> None:
    assert describe_key(key) == key


def test_a_transaction_is_a_sentence_with_its_place_and_what_came_of_it() -> None:
    judged = entry("JudgeUpdate", event="UpdateJudged", notice=notice("BFL416 too large", "gamma"))
    assert describe_sentence(judged) == (
        "alpha had the committee judge the update of gamma (round 7 of heart): BFL416 too large"
    )
    published = entry("PublishModel", event="ModelPublished", notice=notice("ab" * 32))
    assert describe_sentence(published) == "alpha published the model that the committee agreed on (round 7 of heart)"
    late = entry("PublishModel", code="MVCC_READ_CONFLICT", event="ModelPublished", notice=notice("ab" * 32))
    assert "MVCC_READ_CONFLICT" in describe_sentence(late)
    assert "deciding" not in describe_sentence(late), "what was invalid decided nothing"
    assert describe_sentence(entry("ReportMetrics", notice=notice("5"))).endswith("(round 7 of heart), for version 5")


def test_pieces_are_no_news() -> None:
    assert list_news([entry("UploadChunk"), entry("OpenRound"), entry("UploadModelChunk")]) == [
        "alpha opened the round"
    ]


def test_fields_that_differ_are_told_with_before_and_after() -> None:
    before, after = b'{"a":1,"b":["x"],"c":{"d":2}}', b'{"a":1,"b":[],"e":"new"}'
    assert list(compare_values(before, after)) == [("b", "x", "none"), ("e", "", "new"), ("c", '{"d": 2}', "")]
    assert list(compare_values(b"", b"no json")) == [("value", "", "no json")]
    assert next(compare_values(b"{}", b"[" * 100_000))[0] == "value"


def test_long_and_binary_values_are_cut() -> None:
    assert show_bytes(b"\xff" * 100) == f"100 bytes, {'ff' * 16}…"
    assert show_bytes(b"x" * 5000) == f"{'x' * 400}… (5000 characters)"


def test_a_keys_own_policy_is_told_in_words() -> None:
    policy = signature_policy(2, ["coordinator", "regulator", "university"])
    assert describe_policy(policy.SerializeToString()) == "2 of coordinator, regulator, university"
    assert "cannot be read" in describe_policy(b"\xff\xff")
    assert describe_policy(implicit_meta_policy("ANY", "Writers").SerializeToString())


HOSTILE = "<script>alert(1)</script> [/x] \"'`{{7*7}} \u202eabc\u202c \u200b\x00 </style>&lt;" + "y" * 5000


def test_whatever_a_value_says_it_is_text_in_the_page() -> None:
    renderer = Renderer("/base")
    watch = {
        "label": HOSTILE,
        "contract": HOSTILE,
        "state": "failed",
        "failure": HOSTILE,
        "height": 1,
        "expected": 1,
        "is_live": True,
    }
    page = renderer.render("problem.html", {"title": HOSTILE, "problem": HOSTILE, "wanted": HOSTILE, "watch": watch})
    assert "<script>" not in page
    assert page.count("<script") == 1, "the page's own"
    assert "&lt;script&gt;alert(1)&lt;/script&gt; [/x] &#34;&#39;`{{7*7}} \\u202eabc\\u202c \\u200b\\x00" in page
    assert not any(one in page for one in "\u202e\u202c\u200b\x00")
