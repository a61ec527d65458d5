"""Records as canonical JSON (RFC 8785): one byte string per meaning, decoded strictly.

Unknown, missing or mistyped fields, floats, duplicate names, other orders or spellings and trailing bytes are refused.

Source: RFC 8785, JSON Canonicalization Scheme.
"""

import hashlib
import json
from typing import Annotated, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from blockfl.protocol.codes import Code, ProtocolError

MAX_INTEGER = 2**53 - 1
MAX_RECORD_BYTES = 4 * 1024 * 1024
"""No record is longer."""
MAX_RECORD_NAMES = 50_000
"""No record has more fields, those of the records in it counted: an unknown one costs far more than its bytes."""
_SHOWN = 200
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":"))
_MAX_FAULTS = 100
"""So many faults are looked at to name the first; the list of a million would be larger than what was sent."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}[a-z0-9]$")]
ChannelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9.-]{0,248}$")]
MspId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}[A-Za-z0-9]$")]
"""An organisation as records know it: what its certificates' authority stands for on Fabric, in Fabric's spelling."""
Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$")]
Natural = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Positive = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Decimal = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,99})$")]
"""A natural number that may exceed 2^53, as a decimal string."""


class Record(BaseModel):
    """A value with exactly one encoding.

    Subclasses declare fields of strict types; integers only, big ones as ``Decimal``.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        fields = self.model_dump(mode="json")
        # Within ASCII, and without floats, Python's fast encoder writes the same; only names beyond it sort otherwise.
        text = _ENCODER.encode(fields)
        return text.encode() if text.isascii() else rfc8785.dumps(fields)

    @property
    def record_digest(self) -> str:
        """SHA-256 of the canonical bytes, lower-case hex."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the record that these bytes, and no others, encode.

        Raises:
            ProtocolError: BFL301, naming the field, when the bytes are anything else.
        """
        record = cls.restore(data)
        if record.encode() != data:
            raise ProtocolError(Code.MALFORMED, f"{cls.__name__}: not in canonical form (RFC 8785)")
        return record

    @classmethod
    def restore(cls, data: bytes) -> Self:
        """Return the record that a ledger's state gives back, perhaps in another spelling than it was written in.

        A state database of the kind CouchDB takes JSON apart and gives it back with other escapes and another order of
        names. Its meaning is the same, so ``encode`` gives the written bytes again.

        Raises:
            ProtocolError: BFL301, naming the field, when the bytes are no such record.
        """
        names = data.count(b'":')
        if len(data) > MAX_RECORD_BYTES or names > MAX_RECORD_NAMES:
            raise ProtocolError(
                Code.MALFORMED,
                f"{cls.__name__}: expected at most {MAX_RECORD_BYTES} bytes with {MAX_RECORD_NAMES} names, "
                f"got {len(data)} with {names}",
            )
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise ProtocolError(Code.MALFORMED, f"{cls.__name__}: {_describe(error)}") from error


def _describe(error: ValidationError) -> str:
    if error.error_count() > _MAX_FAULTS:
        return f"{error.error_count()} faults"
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the record"
    # Place and message may hold what was sent.
    return f"{_cut(place)}: {_cut(first['msg'])}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def compute_digest(data: bytes | bytearray | memoryview) -> str:
    """Return SHA-256 of the bytes as lower-case hex."""
    return hashlib.sha256(data).hexdigest()
