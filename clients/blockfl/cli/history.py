"""How good a model was from version to version: a table, and the logs that TensorBoard reads.

Path("history.csv").write_text(make_csv(rows))      # rows of views.list_models
write_events(rows, Path("logs"))                     # tensorboard --logdir logs
"""

import csv
import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from blockfl.ledger.errors import LedgerError

AnyRow = Mapping[str, Any]
_FILE: Final = "events.out.tfevents.blockfl"
_POOLED: Final = "all-institutions"
_COLUMNS: Final = ("version", "round", "published", "metric", "pooling", "value", "lowest", "highest", "samples")
_CASTAGNOLI: Final = 0x82F63B78
_MASK: Final = 0xA282EAD8


def make_csv(rows: Sequence[AnyRow]) -> str:
    """Return a line for each version and metric: the value over all institutions, and each institution's own."""
    institutions = sorted({name for row in rows for name in row["reports"]})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*_COLUMNS, *institutions])
    for row in rows:
        for name, one in row["metrics"].items():
            about = [row["version"], row["round"], row["published"], name]
            numbers = [one[column] for column in ("pooling", "value", "lowest", "highest", "samples")]
            writer.writerow([*about, *numbers, *(row["reports"].get(site, {}).get(name, "") for site in institutions)])
    return text.getvalue()


def write_events(rows: Sequence[AnyRow], directory: Path) -> None:
    """Write TensorBoard's logs: a run for all institutions together, and one for each; a step is a version.

    What an earlier call has written there is replaced.

    Raises:
        LedgerError: They cannot be written.
    """
    runs: dict[str, list[bytes]] = {}
    for row in rows:
        seconds = datetime.fromisoformat(row["published"]).timestamp() if row["published"] else 0.0
        pooled = {name: one["value"] for name, one in row["metrics"].items()}
        for run, values in {_POOLED: pooled, **row["reports"]}.items():
            numbers = {name: values[name] for name in row["metrics"] if name in values}
            if not numbers:
                continue
            header = runs.setdefault(run, [_encode_event(seconds, version="brain.Event:2")])
            header.append(_encode_event(seconds, step=row["version"], scalars=numbers))
    try:
        for run, events in runs.items():
            (directory / run).mkdir(parents=True, exist_ok=True)
            (directory / run / _FILE).write_bytes(b"".join(map(_frame, events)))
    except OSError as error:
        raise LedgerError(f"{directory}: the logs cannot be written ({error.strerror})") from error


def _encode_event(
    seconds: float, *, step: int = 0, version: str = "", scalars: Mapping[str, float] | None = None
) -> bytes:
    """Return an ``Event`` of TensorFlow (tensorflow/core/util/event.proto)."""
    event = b"\x09" + struct.pack("<d", seconds) + b"\x10" + _encode_varint(step)
    if version:
        event += _encode_bytes(3, version.encode())
    if scalars:
        values = [
            _encode_bytes(1, _encode_bytes(1, name.encode()) + b"\x15" + struct.pack("<f", value))
            for name, value in scalars.items()
        ]
        event += _encode_bytes(5, b"".join(values))
    return event


def _encode_bytes(field: int, content: bytes) -> bytes:
    return _encode_varint(field << 3 | 2) + _encode_varint(len(content)) + content


def _encode_varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _frame(record: bytes) -> bytes:
    """Return a record as TFRecord files have it: length and content, each with its checksum."""
    length = struct.pack("<Q", len(record))
    return length + _check(length) + record + _check(record)


def _check(content: bytes) -> bytes:
    """Return the masked CRC-32C of bytes."""
    value = 0xFFFFFFFF
    for byte in content:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    value ^= 0xFFFFFFFF  # the checksum, which the format then rotates by 15 bits and shifts
    return struct.pack("<I", ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF)


def _make_table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
        yield value


_TABLE: Final = tuple(_make_table())
