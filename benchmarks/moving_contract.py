"""A contract that keeps and gives private bytes, and judges nothing: what moving them costs without a rule of ours."""

import argparse
import asyncio
from pathlib import Path

from benchmarks.key_value import serve
from blockfl.contract.settings import ServiceSettings
from blockfl.fabric.shim import Context, ContractFault


async def move(context: Context) -> bytes:
    """Put the transient chunk under a key of a collection, or give what is there."""
    if len(context.args) != 2:
        raise ContractFault("expected a collection and a key")
    collection, key = (one.decode() for one in context.args)
    if context.function == "Put":
        await context.put_private(collection, key, context.transient["chunk"])
        return b""
    return await context.get_private(collection, key) or b""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    asyncio.run(serve(ServiceSettings.load(parser.parse_args().config), move))
