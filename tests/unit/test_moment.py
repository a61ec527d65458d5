"""Times in messages are those of the calendar."""

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from blockfl.protocol.moment import format_moment

LAST_MS = 253_402_300_799_999
"""The end of the year 9999, after which the standard library has no dates."""


@given(st.integers(0, LAST_MS))
@example(0)
@example(951_782_400_000)
@example(4_107_542_399_999)
@example(LAST_MS)
def test_a_time_is_told_as_the_standard_library_tells_it(at_ms: int) -> None:
    seconds, milliseconds = divmod(at_ms, 1000)
    told = datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)
    assert format_moment(at_ms) == told.isoformat(timespec="milliseconds")


def test_a_time_that_no_calendar_has_is_told_all_the_same() -> None:
    assert format_moment(LAST_MS + 1) == "10000-01-01T00:00:00.000+00:00"
    assert format_moment(-1) == "1969-12-31T23:59:59.999+00:00"
