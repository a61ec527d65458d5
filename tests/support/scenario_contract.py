"""A contract with what the scenarios of the official clients call: one for each organisation, which knows its name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.shim import Context, Contract, ContractFault

Crash = Callable[[], Awaitable[None]]
Method = Callable[[Context], Awaitable[bytes]]


def scenario_contract(organisation: str, crash: Crash) -> Contract:
    """The contract as one organisation runs it.

    Args:
        organisation: its MSP id.
        crash: ends the organisation's contract service.
    """

    async def refuse_at(context: Context) -> bytes:
        if organisation in json.loads(context.args[0]):
            raise ContractFault(f"{organisation} does not endorse this")
        return b"endorsed"

    async def stop_answering(_: Context) -> bytes:
        ending = asyncio.ensure_future(crash())
        await asyncio.Event().wait()
        await ending
        return b""

    async def check_transient(context: Context) -> bytes:
        return b"success" if organisation in context.transient else b"nothing for me"

    async def name_organisation(_: Context) -> bytes:
        return organisation.encode()

    methods: dict[str, Method] = {
        **_METHODS,
        "RefuseAt": refuse_at,
        "Crash": stop_answering,
        "CheckTransient": check_transient,
        "Organisation": name_organisation,
    }

    async def handler(context: Context) -> bytes:
        if context.function not in methods:
            raise ContractFault(f"there is no function {context.function}")
        return await methods[context.function](context)

    return handler


async def _echo(context: Context) -> bytes:
    return context.args[0]


async def _echo_transient(context: Context) -> bytes:
    return json.dumps({name: value.decode() for name, value in sorted(context.transient.items())}).encode()


async def _sleep(context: Context) -> bytes:
    await asyncio.sleep(float(context.args[0]))
    return b""


async def _fail(context: Context) -> bytes:
    raise ContractFault(context.args[0].decode())


async def _exists(context: Context) -> bytes:
    if len(context.args) != 1:
        raise ContractFault(f"expected 1 argument, got {len(context.args)}")
    return json.dumps(await context.get_state(context.args[0].decode()) is not None).encode()


async def _put(context: Context) -> bytes:
    await context.put_state(context.args[0].decode(), context.args[1])
    return b""


async def _get(context: Context) -> bytes:
    return await context.get_state(context.args[0].decode()) or b""


async def _emit(context: Context) -> bytes:
    context.set_event(context.args[0].decode(), context.args[1])
    return b""


async def _put_private(context: Context) -> bytes:
    given = context.transient
    for collection in given["collection"].decode().split(","):
        await context.put_private(collection, given["key"].decode(), given["value"])
    return b""


async def _get_private(context: Context) -> bytes:
    return await context.get_private(*(arg.decode() for arg in context.args)) or b""


async def _protect(context: Context) -> bytes:
    key, *organisations = (arg.decode() for arg in context.args)
    policy = signature_policy(len(organisations), organisations)
    await context.set_state_policy(key, policy.SerializeToString())
    return b""


_METHODS: dict[str, Method] = {
    "Echo": _echo,
    "EchoTransient": _echo_transient,
    "Fail": _fail,
    "Sleep": _sleep,
    "Exists": _exists,
    "Put": _put,
    "Get": _get,
    "Emit": _emit,
    "PutPrivate": _put_private,
    "GetPrivate": _get_private,
    "Protect": _protect,
}
