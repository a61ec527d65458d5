"""YAML for people: blocks are written once and merged, short parts are one line, and it reads back as it was meant."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from blockfl.network.anchors import MERGE, Block, dump

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("\nßé—"))
SCALARS = st.one_of(TEXT, st.integers(), st.booleans(), st.none())
CONTENT = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4))
)


def test_a_block_is_written_once_and_merged_where_it_is_used() -> None:
    common = Block("common", {"restart": "always", "user": "1000"})
    text = dump({"x-common": common, "one": {MERGE: common, "user": "0"}, "two": {MERGE: common}})
    assert text.count("always") == 1
    assert text.startswith("x-common: &common\n")
    read = yaml.safe_load(text)
    assert read["one"] == {"restart": "always", "user": "0"}
    assert read["two"] == {"restart": "always", "user": "1000"}


def test_equal_parts_that_are_no_blocks_stay_apart() -> None:
    same = ["a", "b"]
    assert "&" not in dump({"one": same, "two": same})


def test_a_short_list_is_one_line_and_a_long_one_is_not() -> None:
    assert dump({"command": ["sleep", "9"]}) == "command: [sleep, '9']\n"
    assert len(dump({"command": ["x" * 60, "y" * 60]}).splitlines()) == 3


def test_a_text_of_several_lines_is_written_as_it_is() -> None:
    assert dump({"text": "one\ntwo\n"}) == "text: |\n  one\n  two\n"


@given(st.dictionaries(TEXT, CONTENT, max_size=4))
def test_whatever_is_written_reads_back(content: dict[str, Any]) -> None:
    assert yaml.safe_load(dump(content)) == content
