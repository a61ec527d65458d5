"""A contract that runs lists of ledger operations; tests/node/contract is the same on the official Node library."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.shim import Context, ContractFault
from blockfl.fabric.shim.requests import RangeIterator

Operation = list[Any]


async def operations_contract(context: Context) -> bytes:
    """Run(list): runs operations, [verb, argument...], and returns the list of their results as JSON."""
    if context.function != "Run":
        raise ContractFault(f"expected the function Run, got {context.function!r}")
    results = [await _VERBS[verb](context, *args) for verb, *args in json.loads(context.args[0])]
    return json.dumps(results, separators=(",", ":")).encode()


def encode_operations(*operations: Operation) -> str:
    return json.dumps(operations, separators=(",", ":"))


def _hex(value: bytes | None) -> str | None:
    return value.hex() if value else None


async def _rows(entries: AsyncIterator[tuple[str, bytes]]) -> list[list[str | None]]:
    return [[key, _hex(value)] async for key, value in entries]


async def _head(entries: RangeIterator, limit: int) -> list[list[str | None]]:
    rows: list[list[str | None]] = []
    async for key, value in entries:
        rows.append([key, _hex(value)])
        if len(rows) == limit:
            break
    await entries.aclose()
    return rows


async def _page(context: Context, start: str, end: str, size: int, bookmark: str) -> list[Any]:
    page = await context.page(start, end, size, bookmark)
    return [[[key, _hex(value)] for key, value in page.entries], page.bookmark]


async def _call(context: Context, chaincode: str, *args: str) -> list[Any]:
    answer = await context.invoke_chaincode(chaincode, *args)
    return [answer.status, answer.payload.decode()]


async def _text(operation: Awaitable[bytes | None]) -> str | None:
    return _hex(await operation)


async def _done(value: Any = None) -> Any:
    return value


async def _refuse(_: Context, text: str) -> None:
    raise ContractFault(text)


def _policy(organisations: tuple[str, ...]) -> bytes:
    return bytes(signature_policy(len(organisations), organisations).SerializeToString())


_VERBS: dict[str, Callable[..., Awaitable[Any]]] = {
    "put": lambda c, key, text: c.put_state(key, text.encode()),
    "get": lambda c, key: _text(c.get_state(key)),
    "delete": lambda c, key: c.delete_state(key),
    "list": lambda c, start, end: _rows(c.range(start, end)),
    "head": lambda c, start, end, limit: _head(c.range(start, end), limit),
    "page": _page,
    "protect": lambda c, key, *organisations: c.set_state_policy(key, _policy(organisations)),
    "protection": lambda c, key: _text(c.get_state_policy(key)),
    "putPrivate": lambda c, collection, key, name: c.put_private(collection, key, c.transient[name]),
    "getPrivate": lambda c, collection, key: _text(c.get_private(collection, key)),
    "deletePrivate": lambda c, collection, key: c.delete_private(collection, key),
    "purgePrivate": lambda c, collection, key: c.purge_private(collection, key),
    "hashPrivate": lambda c, collection, key: _text(c.get_private_hash(collection, key)),
    "listPrivate": lambda c, collection, start, end: _rows(c.private_range(collection, start, end)),
    "protectPrivate": lambda c, collection, key, *organisations: c.set_private_policy(
        collection, key, _policy(organisations)
    ),
    "protectionPrivate": lambda c, collection, key: _text(c.get_private_policy(collection, key)),
    "emit": lambda c, name, text: _done(c.set_event(name, text.encode())),
    "creator": lambda c: _done(c.creator.msp_id),
    "channel": lambda c: _done(c.channel),
    "call": _call,
    "refuse": _refuse,
}
