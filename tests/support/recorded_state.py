"""The final state of the recorded ledger, readable as a snapshot: public, hashed and private values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

RECORDING = Path(__file__).parents[1] / "recordings" / "bft"


@dataclass(frozen=True, kw_only=True)
class RecordedValue:
    value: bytes
    version: tuple[int, int]
    metadata: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def value_hash(self) -> bytes:
        return self.value


class RecordedState:
    """Implements the simulator's view of a ledger on the recorded files."""

    def __init__(self) -> None:
        exported = json.loads((RECORDING / "state.json").read_text())
        self._public = {ns: {k: _value(v, "value") for k, v in keys.items()} for ns, keys in exported["public"].items()}
        self._hashed = {
            (ns, collection, bytes.fromhex(key)): _value(entry, "value_hash")
            for ns, collections in exported["private_hashed"].items()
            for collection, keys in collections.items()
            for key, entry in keys.items()
        }
        self._private: dict[tuple[str, str, str], dict[str, RecordedValue]] = {}
        for stored in json.loads((RECORDING / "private.json").read_text())["stored"]:
            for write in stored["writes"]:
                self._store(stored, write)

    def _store(self, stored: Any, write: Any) -> None:
        key = write["key"]
        value = bytes.fromhex(write["value"] or "")
        known = self._hashed.get((stored["chaincode"], stored["collection"], sha256(key.encode()).digest()))
        if known is None or known.value != sha256(value).digest():
            return
        for organisation in stored["held_by"]:
            place = organisation, stored["chaincode"], stored["collection"]
            self._private.setdefault(place, {})[key] = RecordedValue(value=value, version=known.version)

    def get(self, namespace: str, key: str) -> RecordedValue | None:
        return self._public.get(namespace, {}).get(key)

    def range(self, namespace: str, start: str, end: str) -> Iterator[tuple[str, RecordedValue]]:
        yield from _range(self._public.get(namespace, {}), start, end)

    def get_hash(self, namespace: str, collection: str, key_hash: bytes) -> RecordedValue | None:
        return self._hashed.get((namespace, collection, key_hash))

    def private_get(self, organisation: str, namespace: str, collection: str, key: str) -> RecordedValue | None:
        return self._private.get((organisation, namespace, collection), {}).get(key)

    def private_range(
        self, organisation: str, namespace: str, collection: str, start: str, end: str
    ) -> Iterator[tuple[str, RecordedValue]]:
        yield from _range(self._private.get((organisation, namespace, collection), {}), start, end)


@cache
def recorded_calls() -> list[dict[str, Any]]:
    """The recorded proposals with their results."""
    calls: list[dict[str, Any]] = json.loads((RECORDING / "rwsets.json").read_text())["calls"]
    return calls


def _value(entry: Any, name: str) -> RecordedValue:
    block, index = entry["version"]
    metadata = {key: bytes.fromhex(value) for key, value in entry.get("metadata", {}).items()}
    return RecordedValue(value=bytes.fromhex(entry[name]), version=(block, index), metadata=metadata)


def _range(values: Mapping[str, RecordedValue], start: str, end: str) -> Iterator[tuple[str, RecordedValue]]:
    for key in sorted(values):
        if key >= start and (not end or key < end):
            yield key, values[key]
