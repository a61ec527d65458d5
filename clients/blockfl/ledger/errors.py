"""What can go wrong between an organisation's process and the contract, as one tree.

LedgerError
├── RefusedError      the contract said no, with its stable code
├── UnreachableError  no answer, or not enough endorsers; nothing was done, try again
├── UnreadableError   an answer that is not the record that was asked for
└── UnknownOutcomeError  sent, but not known to be committed; repeating it is safe, transactions are idempotent
"""

from typing import Final

from blockfl.fabric.errors import CommitError, CommitStatusError, FabricError
from blockfl.protocol.codes import Code

OTHER_RELEASE: Final = frozenset({Code.ARGUMENTS, Code.UNKNOWN_TRANSACTION})
"""What the contract says to a program of another release, for these programs call it as their own release does."""
_OTHER_RELEASE: Final = (
    "; the contract in force seems to be of another release than this program: compare blockfl --version with "
    "blockfl network contract show"
)


class LedgerError(Exception):
    """A transaction or a read did not succeed."""


class RefusedError(LedgerError):
    """The contract refused, or the transaction was found invalid.

    Attributes:
        code: The contract's code, or None when the ledger itself refused.
    """

    def __init__(self, message: str, code: Code | None) -> None:
        super().__init__(message)
        self.code = code


class UnreachableError(LedgerError):
    """The ledger did not answer, or too few endorsers did; nothing was done."""


class UnreadableError(LedgerError):
    """The ledger answered with something that is not the record that was asked for."""


class UnknownOutcomeError(LedgerError):
    """The transaction was sent and may or may not have been committed; repeating it is safe."""


def translate(error: FabricError, what: str) -> LedgerError:
    """Return the error of this tree for one of the gateway's, keeping the contract's own words."""
    text = str(error)
    code = Code.of(text)
    if code is not None:
        start = text.index(code.identifier)
        hint = _OTHER_RELEASE if code in OTHER_RELEASE else ""
        return RefusedError(text[start:].splitlines()[0] + hint, code)
    if isinstance(error, CommitStatusError):
        return UnknownOutcomeError(f"{what}: sent, but its outcome is not known ({text}); repeat it")
    if isinstance(error, CommitError):
        return RefusedError(f"{what}: committed as invalid, {error.code_name}", None)
    return UnreachableError(f"{what}: {text}")


def is_refused_with(error: LedgerError, *codes: Code) -> bool:
    """Whether the contract refused with one of these codes."""
    return isinstance(error, RefusedError) and error.code in codes


def is_unreadable(error: LedgerError) -> bool:
    """Whether a record that was asked for by a name from the ledger cannot be decoded, there or here."""
    return isinstance(error, UnreadableError) or is_refused_with(error, Code.MALFORMED)
