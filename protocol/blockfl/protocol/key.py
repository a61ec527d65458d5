"""Keys of the ledger that know which kind of record stands there, and how such a kind is declared.

A key is a prefix and parts. The parts are the parameters of a signature, so that a call with other parts does not
type-check. Numbers are padded to six digits, so that ranges ascend. ``catalogue`` holds the declarations.

    @Parts
    def _of_round(task: Name, round: Number) -> None: ...

    ROUND = RecordType(kind=Round, prefix="round", parts=_of_round, holds="...")
    ROUND.key("heart", 7)                    # round/heart/000007, a Key[Round]
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, Literal, ParamSpec, TypeVar

from pydantic import Field

from blockfl.protocol.canonical import Record
from blockfl.protocol.codes import Code

P = ParamSpec("P")
R = TypeVar("R", bound=Record)

MAX_NUMBER: Final = 999_999
Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
"""Of a round, a version or a chunk: six digits in keys."""


class Parts(Generic[P]):
    """What follows a key's prefix.

    Attributes:
        names: Of the parts, in their order.
        types: Of the parts: ``Name``, ``MspId``, ``Digest`` or ``Number``.
    """

    def __init__(self, shape: Callable[P, None]) -> None:
        parameters = {name: one for name, one in shape.__annotations__.items() if name != "return"}
        self.names = tuple(parameters)
        self.types: tuple[Any, ...] = tuple(parameters.values())

    def list_values(self, *parts: P.args, **named: P.kwargs) -> tuple[Any, ...]:
        """Return the parts of a call in their order."""
        return (*parts, *(named[name] for name in self.names[len(parts) :]))


class Key(str, Generic[R]):
    """Where one record stands.

    Attributes:
        of: Its kind.
        parts: What follows the prefix; not known of a key that was found on a ledger.
    """

    of: "RecordType[..., R]"
    parts: tuple[Any, ...]

    def __new__(cls, of: "RecordType[..., R]", text: str, parts: tuple[Any, ...] = ()) -> "Key[R]":
        """Make a key of its text."""
        key = super().__new__(cls, text)
        key.of, key.parts = of, parts
        return key


def _may_change(record: Record) -> bool:
    del record
    return False


@dataclass(frozen=True, kw_only=True)
class RecordType(Generic[P, R]):
    """One kind of record.

    Attributes:
        kind: Its class.
        prefix: What its keys begin with.
        parts: What follows.
        holds: What the documentation says of it.
        needs: Whose endorsement its next write needs: a majority of the organisations, or the committee's threshold.
        read: The contract's read of one record, None if it offers none.
        missing: The code when a record that must be there is not.
        refusal: What is said then; may name the parts.
        absent: What stands for a record that was never written, for kinds where that is no error.
        owner: The part of a record that names its place: the record itself unless said otherwise.
        is_final: Whether a record stays as it is, so that a client reads it once.
    """

    kind: type[R]
    prefix: str
    parts: Parts[P]
    holds: str
    needs: Literal["majority", "committee"] = "majority"
    read: str | None = None
    missing: Code = Code.RECORD_UNKNOWN
    refusal: str = "there is no such record"
    absent: Callable[P, R] | None = None
    owner: Callable[[R], Record] = lambda record: record
    is_final: Callable[[R], bool] = _may_change

    def key(self, *parts: P.args, **named: P.kwargs) -> Key[R]:
        """Return the key of one record."""
        return self._make_key(self.parts.list_values(*parts, **named))

    def key_of(self, record: R) -> Key[R]:
        """Return the key that a record belongs under."""
        owner = self.owner(record)
        return self._make_key(tuple(getattr(owner, name) for name in self.parts.names))

    def explain_missing(self, key: Key[R]) -> str:
        """Return what is said when there is no record under a key."""
        return self.refusal.format(**dict(zip(self.parts.names, key.parts, strict=True)))

    def make_absent(self, key: Key[R]) -> R | None:
        """Return what stands for a record that was never written, None if nothing does."""
        make: Callable[..., R] | None = self.absent
        return make(*key.parts) if make else None

    def _make_key(self, parts: tuple[Any, ...]) -> Key[R]:
        return Key(self, join_key(self.prefix, parts), parts)


@dataclass(frozen=True, kw_only=True)
class Range(Generic[R]):
    """All keys of one kind that share their first parts.

    Attributes:
        of: The kind.
        prefix: What the keys share, without the slash behind it.
        read: The contract's read of all these records, None if it offers none.
        arguments: Of that read.
    """

    of: RecordType[..., R]
    prefix: str
    read: str | None
    arguments: tuple[str, ...]

    @property
    def start(self) -> str:
        """The range's start, included."""
        return f"{self.prefix}/"

    @property
    def end(self) -> str:
        """The range's end, excluded."""
        return f"{self.prefix}0"


@dataclass(frozen=True, kw_only=True)
class Listing(Generic[P, R]):
    """Records of one kind that are read together: all whose key begins with certain parts.

    Attributes:
        of: The kind.
        parts: The first parts of its keys.
        read: The contract's read of such records, None if it offers none.
    """

    of: RecordType[..., R]
    parts: Parts[P]
    read: str | None = None

    def below(self, *parts: P.args, **named: P.kwargs) -> Range[R]:
        """Return the range of all keys that begin with these parts."""
        values = self.parts.list_values(*parts, **named)
        prefix, arguments = join_key(self.of.prefix, values), tuple(str(one) for one in values)
        return Range(of=self.of, prefix=prefix, read=self.read, arguments=arguments)


def join_key(prefix: str, parts: tuple[Any, ...]) -> str:
    """Return the text of a key."""
    return "/".join((prefix, *(f"{one:06d}" if isinstance(one, int) else str(one) for one in parts)))
