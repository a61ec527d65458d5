"""How often an organisation may change what rounds start from: an enrolment, an opening key."""

from typing import Final

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.moment import format_moment

CHANGE_INTERVAL_MS: Final = 10_000
"""How long a record stays before its owner may change it again: rounds cannot open while it changes all the time."""


def check_change(what: str, *, changed_at_ms: int, now_ms: int) -> None:
    """Check that a record that rounds start from may be changed again.

    Args:
        what: the record, for the error.
        changed_at_ms: when it was written last.
        now_ms: the transaction's time.

    Raises:
        ProtocolError: BFL120.
    """
    again_ms = changed_at_ms + CHANGE_INTERVAL_MS
    if now_ms < again_ms:
        raise ProtocolError(
            Code.CHANGED_LATELY,
            f"{what} was changed at {format_moment(changed_at_ms)} and may be changed again from "
            f"{format_moment(again_ms)} on, the transaction's time is {format_moment(now_ms)}: try again then",
        )
