"""The final state of the recorded ledger, readable as a snapshot: public, hashed and private values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from blockfl.fabric.embedded.ordering.ledger import PrivateValue
from blockfl.fabric.transaction.rwset import Version, encode_metadata
from blockfl.fabric.validate import HashedValue, StateValue

RECORDING = Path(__file__).parents[1] / "recordings" / "bft"
_Value = TypeVar("_Value")


class RecordedState:
    """Implements the simulator's view of a ledger on the recorded files."""

    def __init__(self) -> None:
        exported = json.loads((RECORDING / "state.json").read_text())
        self._public = {
            namespace: {key: _public(entry) for key, entry in keys.items()}
            for namespace, keys in exported["public"].items()
        }
        self._hashed = {
            (namespace, collection, bytes.fromhex(key)): _hashed(entry)
            for namespace, collections in exported["private_hashed"].items()
            for collection, keys in collections.items()
            for key, entry in keys.items()
        }
        self._private: dict[tuple[str, str, str], dict[str, PrivateValue]] = {}
        for stored in json.loads((RECORDING / "private.json").read_text())["stored"]:
            for write in stored["writes"]:
                self._store(stored, write)

    def _store(self, stored: Any, write: Any) -> None:
        key = write["key"]
        value = bytes.fromhex(write["value"] or "")
        known = self._hashed.get((stored["chaincode"], stored["collection"], sha256(key.encode()).digest()))
        if known is None or known.value_hash != sha256(value).digest():
            return
        for organisation in stored["held_by"]:
            place = organisation, stored["chaincode"], stored["collection"]
            self._private.setdefault(place, {})[key] = PrivateValue(value=value, version=known.version)

    def get(self, namespace: str, key: str) -> StateValue | None:
        return self._public.get(namespace, {}).get(key)

    def range(self, namespace: str, start: str, end: str) -> Iterator[tuple[str, StateValue]]:
        yield from _range(self._public.get(namespace, {}), start, end)

    def get_hash(self, namespace: str, collection: str, key_hash: bytes) -> HashedValue | None:
        return self._hashed.get((namespace, collection, key_hash))

    def private_get(self, organisation: str, namespace: str, collection: str, key: str) -> PrivateValue | None:
        return self._private.get((organisation, namespace, collection), {}).get(key)

    def private_range(
        self, organisation: str, namespace: str, collection: str, start: str, end: str
    ) -> Iterator[tuple[str, PrivateValue]]:
        yield from _range(self._private.get((organisation, namespace, collection), {}), start, end)


@cache
def recorded_calls() -> list[dict[str, Any]]:
    """The recorded proposals with their results."""
    calls: list[dict[str, Any]] = json.loads((RECORDING / "rwsets.json").read_text())["calls"]
    return calls


def _public(entry: Any) -> StateValue:
    return StateValue(
        value=bytes.fromhex(entry["value"]), version=Version(*entry["version"]), metadata=_metadata(entry)
    )


def _hashed(entry: Any) -> HashedValue:
    return HashedValue(
        value_hash=bytes.fromhex(entry["value_hash"]), version=Version(*entry["version"]), metadata=_metadata(entry)
    )


def _metadata(entry: Any) -> bytes:
    entries = tuple((key, bytes.fromhex(value)) for key, value in entry.get("metadata", {}).items())
    return encode_metadata(entries) if entries else b""


def _range(values: Mapping[str, _Value], start: str, end: str) -> Iterator[tuple[str, _Value]]:
    for key in sorted(values):
        if key >= start and (not end or key < end):
            yield key, values[key]
