"""What came of a call, as the caller sees it: a code of the contract, a validation code, or which guard said no."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any, Final

from attacks.catalogue import Outcome, invalid, refused, succeeded
from blockfl.fabric.errors import CommitError, FabricError
from blockfl.ledger.errors import RefusedError
from blockfl.protocol.codes import Code, ProtocolError
from support.world import Invalid, Refused

GUARDS: Final = {
    "clock": r"timestamp|time window",
    "read access": r"does not have read access",
    "TLS": r"[Hh]andshake|tls|TLS|CERTIFICATE_REQUIRED|Socket closed|UNAVAILABLE.*failed to connect",
    "duplicate": r"duplicate transaction|request already processed",
    "administrators only": r"(?i)access denied.*(admin|lifecycle)|BAD_REQUEST|expected an administrator",
    "channel": r"(?i)channel '?\S*'? not found|last config for channel|no metadata was found for \S+ \S+ in channel",
    "access": r"access denied|identity expired|FORBIDDEN|failed evaluating policy",
    "unlike answers": r"ProposalResponsePayloads do not match",
}
"""Refusals that do not come from the contract: a word for each, and what the text of one looks like."""
_SHOWN = 300


def name_refusal(text: str) -> str:
    """Return the contract's code, the guard's name, or else the text itself."""
    code = Code.of(text)
    if code:
        return code.identifier
    found = next((name for name, pattern in GUARDS.items() if re.search(pattern, text)), None)
    return found or text[:_SHOWN]


async def attempt(call: Awaitable[Any], achieves: str = "it was accepted") -> Outcome:
    """Wait for a call that ought not to succeed, and say what came of it."""
    try:
        await call
    except Invalid as error:
        return invalid(error.code)
    except CommitError as error:
        return invalid(error.code_name)
    except Refused as error:
        return refused(name_refusal(error.text))
    except ProtocolError as error:
        return refused(error.code)
    except (FabricError, RefusedError) as error:
        return refused(name_refusal(str(error)))
    return succeeded(achieves)


async def attempt_all(*calls: Awaitable[Any]) -> tuple[Outcome, ...]:
    """Attempt one after the other; return the different outcomes in the order in which they were met."""
    outcomes = [await attempt(one) for one in calls]
    return tuple(dict.fromkeys(outcomes))
