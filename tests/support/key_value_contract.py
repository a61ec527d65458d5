"""A small contract for tests of the ledger: public and private values, ranges, key-level policies, events."""

from __future__ import annotations

import json

from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.shim import Context, ContractFault


async def key_value_contract(context: Context) -> bytes:
    """Runs one of the functions below; arguments are text."""
    args = [argument.decode() for argument in context.args]
    match context.function, args:
        case "Put", [key, value]:
            await context.put_state(key, value.encode())
            context.set_event("put", key.encode())
        case "Get", [key]:
            return await context.get_state(key) or b""
        case "Add", [key, value]:
            await context.put_state(key, (await context.get_state(key) or b"") + value.encode())
        case "Delete", [key]:
            await context.delete_state(key)
        case "List", [start, end]:
            return json.dumps([key async for key, _ in context.range(start, end)]).encode()
        case "Protect", [key, *msp_ids]:
            policy = signature_policy(len(msp_ids), msp_ids)
            await context.set_state_policy(key, policy.SerializeToString())
        case "PutPrivate", [collection, key]:
            await context.put_private(collection, key, context.transient["value"])
        case "GetPrivate", [collection, key]:
            return await context.get_private(collection, key) or b""
        case "HashPrivate", [collection, key]:
            return (await context.get_private_hash(collection, key) or b"").hex().encode()
        case "Caller", []:
            return context.creator.msp_id.encode()
        case "Fail", [text]:
            raise ContractFault(text)
        case "Call", [name, *rest]:
            answer = await context.invoke_chaincode(name, *rest)
            return answer.payload
        case _:
            raise ContractFault(f"expected a function of the test's contract, got {context.function} {args}")
    return b""
