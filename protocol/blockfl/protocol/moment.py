"""Times of the ledger as people read them, computed without a clock or a calendar of the machine's.

    format_moment(1_800_000_060_001)    # "2027-01-15T08:01:00.001+00:00"

Source: https://howardhinnant.github.io/date_algorithms.html#civil_from_days (the proleptic Gregorian calendar).
"""

from typing import Final

_DAY_MS: Final = 86_400_000
_ERA_DAYS: Final = 146_097
"""Days of 400 years, after which the calendar repeats."""
_TO_MARCH_0000_DAYS: Final = 719_468


def format_moment(at_ms: int) -> str:
    """Return a time as ISO 8601 in UTC, to the millisecond.

    Args:
        at_ms: Milliseconds since 1970.
    """
    days, rest_ms = divmod(at_ms, _DAY_MS)
    year, month, day = _find_date(days)
    minutes, milliseconds = divmod(rest_ms, 60_000)
    hour, minute = divmod(minutes, 60)
    second, milliseconds = divmod(milliseconds, 1000)
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}.{milliseconds:03d}+00:00"


def _find_date(days: int) -> tuple[int, int, int]:
    """Return year, month and day of so many days after 1 January 1970; years are counted from March inside."""
    era, day_of_era = divmod(days + _TO_MARCH_0000_DAYS, _ERA_DAYS)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    march_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * march_month + 2) // 5 + 1
    month = march_month + 3 if march_month < 10 else march_month - 9
    return era * 400 + year_of_era + (month <= 2), month, day
