"""What one transaction can do to one key, and what becomes of the key: `old` with a policy of its own before."""

from __future__ import annotations

from blockfl.fabric.transaction.rwset import VALIDATION_PARAMETER, Entries, MetadataWrite, Write, encode_metadata
from support.scratch_ledger import key_policy

POLICY: Entries = ((VALIDATION_PARAMETER, key_policy(1, "delta")),)
OTHER: Entries = (("another", b"entry"), (VALIDATION_PARAMETER, b""))

Case = tuple[list[Write | MetadataWrite], tuple[bytes | None, bytes]]


def write(value: bytes = b"new", key: str = "k") -> Write:
    return Write(key=key, value=value)


def delete(key: str = "k") -> Write:
    return Write(key=key, is_delete=True)


def rule(entries: Entries, key: str = "k") -> MetadataWrite:
    return MetadataWrite(key=key, entries=entries)


# Value and metadata afterwards. Peers add up a number for each operation on a key; twice the number of a write is
# that of a change of metadata, hence the surprises in the second half.
OPERATIONS: dict[str, Case] = {
    "a write keeps the metadata": ([write()], (b"new", encode_metadata(POLICY))),
    "a delete": ([delete()], (None, b"")),
    "a write of nothing is a delete": ([write(b"")], (None, b"")),
    "a delete that names a value": ([Write(key="k", value=b"x", is_delete=True)], (None, b"")),
    "metadata keep the value": ([rule(OTHER)], (b"old", encode_metadata(OTHER))),
    "no entries remove the metadata": ([rule(())], (b"old", b"")),
    "a write with metadata": ([write(), rule(OTHER)], (b"new", encode_metadata(OTHER))),
    "a write that removes the metadata": ([write(), rule(())], (b"new", b"")),
    "a delete wins over metadata": ([delete(), rule(OTHER)], (None, b"")),
    "two writes change only the metadata, to none": ([write(b"1"), write(b"2")], (b"old", b"")),
    "three writes keep the last value without metadata": ([write(b"1"), write(b"2"), write(b"3")], (b"3", b"")),
    "eight writes are a delete": ([write(bytes([i])) for i in range(1, 9)], (None, b"")),
    "two deletes change only the metadata, to none": ([delete(), delete()], (b"old", b"")),
    "a write and a delete are a delete": ([write(), delete()], (None, b"")),
    "two deletes and a write change only the metadata": ([delete(), delete(), write()], (b"old", b"")),
    "two metadata writes keep the last": ([rule(POLICY), rule(OTHER)], (b"old", encode_metadata(OTHER))),
    "four removals of metadata remove it": ([rule(())] * 4, (b"old", b"")),
    "256 writes count as none, so the last one stands": (
        [write(bytes([1 + i % 255])) for i in range(256)],
        (b"\x01", encode_metadata(POLICY)),
    ),
}
