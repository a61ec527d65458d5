"""A process that keeps a ledger busy until it is killed: `python -m support.ledger_load CHANNEL LEDGER SEED CLIENTS`.

It prints one line for every acknowledged transaction, when it is acknowledged: its id, its key, and the seed of the
values that it wrote. `values_of` gives the values again.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from blockfl.fabric.errors import NodeError
from support.channel import Channel, PrivateWrites, load_channel

VALID = 0


def values_of(seed: int) -> tuple[bytes, bytes]:
    """The public and the private value of a transaction; some are large."""
    generator = random.Random(seed)
    sizes = generator.choice([(20, 50), (500, 3_000), (3_000, 60_000), (30_000, 400_000)])
    return generator.randbytes(sizes[0]), generator.randbytes(sizes[1])


async def run_client(channel: Channel, ledger: ChannelLedger, generator: random.Random) -> None:
    """Write until the ledger stops."""
    while True:
        seed = generator.getrandbits(40)
        key = f"key-{seed}"
        public, private = values_of(seed)
        with_private = seed % 2 == 0
        writes = [PrivateWrites(collection="sealed", values={key: private})] if with_private else []
        endorsed = channel.write({key: public}, private=writes)
        # Members endorse, or one of them does and the other one is to get it at commit.
        members = ("alpha", "beta") if seed % 3 else ("beta",)
        if with_private:
            await asyncio.gather(*[ledger.stage_private(name, endorsed.tx_id, endorsed.sets) for name in members])
        status = await ledger.order(endorsed.envelope)
        assert status.code == VALID
        os.write(1, f"{endorsed.tx_id} {key} {seed}\n".encode())


async def run(channel: Channel, directory: Path, seed: int, clients: int) -> None:
    """Open the ledger and write with several clients at once."""
    with ChannelLedger.open(directory, channel.genesis, orderer=channel.orderer) as ledger:
        if ledger.height == 1:
            await ledger.order(channel.define("sealed").envelope)
        os.write(1, b"ready\n")
        generators = [random.Random(seed * 1000 + number) for number in range(clients)]
        await asyncio.gather(*[run_client(channel, ledger, generator) for generator in generators])


if __name__ == "__main__":
    try:
        asyncio.run(run(load_channel(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
    except NodeError as error:
        sys.exit(str(error))
