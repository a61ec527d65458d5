from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.channel.duration import format_duration, parse_duration
from blockfl.fabric.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("600ms", 0.6),
        ("2s", 2),
        ("3m0s", 180),
        ("1h2m3.5s", 3723.5),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("1ns", 1e-9),
        ("-2s", -2),
        ("+2s", 2),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "s", "2 s", "2S", "1d", "--1s", "1s2", "s1", ".s", "1e3s", "inf", "-"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0s"),
        (50, "50ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (180_000, "3m0s"),
        (3_723_050, "1h2m3.05s"),
        (60_001, "1m0.001s"),
    ],
)
def test_durations_are_written_as_go_writes_them(milliseconds: int, text: str) -> None:
    assert format_duration(milliseconds) == text


@given(st.integers(0, 10**10))
def test_what_is_written_reads_the_same(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds)) == milliseconds / 1000
