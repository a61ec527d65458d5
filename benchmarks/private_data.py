"""``make private-data``: how real peers hand private data on, to ``build/bench/private_data.json``.

    {"rows": [{"way", "chunk_mib", "seconds", "cpu_seconds", "late"}, …], "load", "processors"}

A hospital puts an update of 16 MiB, and each of three members of the committee reads it at its own peer. Three ways:

- *endorsed*: every member endorses, and so has the bytes; no peer sends them to another (``maximum_peer_count`` 0).
- *pushed*: one member endorses, and its peer sends the bytes to the two others (``maximum_peer_count`` 2).
- *pulled*: one member endorses, and the others ask its peer for the bytes when the transaction is in a block.

Seconds are from the first call until the last member has read the last chunk, processor-seconds those of all peers and
contract services. Medians of turns; the ways alternate. ``late`` counts turns in which
somebody could not read all within 60 s. Needs ``FABRIC_BIN``.
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from examples.heart.stage import PORTS
from examples.port_range import reserve_ports

from benchmarks.consortium import COMMITTEE, describe
from benchmarks.contract_network import connect, put_in_force, start
from benchmarks.markdown import tabulate
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.errors import GatewayError
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.transaction.chaincode_definition import ChaincodeDefinition, CollectionSpec
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.transfer import IN_FLIGHT
from blockfl.network.foundation import found
from blockfl.network.layout import Layout
from blockfl.network.process import ProcessTable

WAYS: Final = ("endorsed", "pushed", "pulled")
CHUNKS_MIB: Final = (1, 4, 16)
UPDATE_MIB: Final = 16
_SENDER: Final = "cleveland"
_TIMEOUT_S: Final = 60.0
_LOOK_S: Final = 0.2


class Site:
    """Connections of one sender and of the readers, to their own peers."""

    def __init__(self, contract: str, sender: Gateway, readers: Sequence[Gateway]) -> None:
        self._contract, self._sender, self._readers = contract, sender, readers

    async def move(self, way: str, chunk_mib: int, name: str) -> float | None:
        """Put an update and have everybody read it; return the seconds, or None where a member could not in time.

        Args:
            way: One of `WAYS`.
            chunk_mib: Of each piece, in MiB.
            name: Of the update, used once.
        """
        gate, began = asyncio.Semaphore(IN_FLIGHT), time.perf_counter()
        pieces = range(UPDATE_MIB // chunk_mib)
        try:
            async with asyncio.timeout(_TIMEOUT_S), asyncio.TaskGroup() as group:
                for one in pieces:
                    group.create_task(self._put_and_read(gate, way, chunk_mib << 20, f"{name}/{one}"))
        except TimeoutError:
            return None
        return time.perf_counter() - began

    async def _put_and_read(self, gate: asyncio.Semaphore, way: str, size: int, key: str) -> None:
        collection = _collection_of(way)
        organisations = COMMITTEE if way == "endorsed" else COMMITTEE[:1]
        async with gate:
            chunk = {"chunk": os.urandom(size)}
            await self._sender.submit(
                self._contract, "Put", collection, key, transient=chunk, organisations=organisations
            )
            await asyncio.gather(*(self._read(reader, collection, key, size) for reader in self._readers))

    async def _read(self, reader: Gateway, collection: str, key: str, size: int) -> None:
        """Read at the reader's own peer; a peer that has not got the bytes yet says so, and is asked again."""
        while True:
            try:
                if len(await reader.evaluate(self._contract, "Get", collection, key)) == size:
                    return
            except GatewayError:
                pass
            await asyncio.sleep(_LOOK_S)


def measure(directory: Path, base_port: int, turns: int) -> list[dict[str, Any]]:
    """Bring real peers up, measure each way with each size of chunk, take them down.

    Args:
        directory: An empty one.
        base_port: The first of the network's ports.
        turns: Of each; one more comes first and does not count.
    """
    layout, processes = Layout(directory), ProcessTable(directory)
    hosts = found(describe(4, base_port).for_ledger("local"), layout)
    profiles = {one.name: ConnectionProfile.load(one.layout.profile("admin")) for one in hosts}
    try:
        start(hosts, layout, processes, "benchmarks.moving_contract", ledger="local")
        definition = define(hosts[0].load_consortium().contract)
        asyncio.run(put_in_force(hosts, definition))
        return asyncio.run(_measure(definition.name, profiles, processes, turns))
    finally:
        processes.stop(processes.names())


def define(contract: str) -> ChaincodeDefinition:
    """Return the contract's definition: the committee has two collections, and any member of it may endorse."""
    any_member = signature_policy(1, COMMITTEE)
    kinds = {"endorsed": 0, "pushed": len(COMMITTEE) - 1}
    return ChaincodeDefinition(
        name=contract,
        version="1",
        collections=tuple(
            CollectionSpec(name=name, members=COMMITTEE, maximum_peer_count=count, endorsement_policy=any_member)
            for name, count in kinds.items()
        ),
    )


def _collection_of(way: str) -> str:
    return "pushed" if way == "pushed" else "endorsed"


async def _measure(
    contract: str, profiles: dict[str, ConnectionProfile], processes: ProcessTable, turns: int
) -> list[dict[str, Any]]:
    samples: defaultdict[tuple[str, int], list[tuple[float | None, float]]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(connect(profiles[name])) for name in COMMITTEE]
        site = Site(contract, await stack.enter_async_context(connect(profiles[_SENDER])), readers)
        for turn in range(turns + 1):
            for chunk_mib in CHUNKS_MIB:
                for way in WAYS:
                    before = _read_cpu(processes)
                    elapsed = await site.move(way, chunk_mib, f"{way}/{chunk_mib}/{turn}")
                    cpu_seconds = _read_cpu(processes) - before
                    print(f"{way}, {chunk_mib} MiB: {_describe(elapsed)}, {cpu_seconds:.2f}", file=sys.stderr)
                    if turn:
                        samples[way, chunk_mib].append((elapsed, cpu_seconds))
    return [_summarise(way, chunk_mib, samples[way, chunk_mib]) for way in WAYS for chunk_mib in CHUNKS_MIB]


def _summarise(way: str, chunk_mib: int, turns: Sequence[tuple[float | None, float]]) -> dict[str, Any]:
    """Return medians; of the seconds None, if half of the turns or more were not done in time."""
    seconds = statistics.median_high([math.inf if elapsed is None else elapsed for elapsed, _ in turns])
    return {
        "way": way,
        "chunk_mib": chunk_mib,
        "seconds": None if math.isinf(seconds) else seconds,
        "cpu_seconds": statistics.median(used for _, used in turns),
        "late": sum(elapsed is None for elapsed, _ in turns),
    }


def _read_cpu(processes: ProcessTable) -> float:
    """Return the processor-seconds of peers and contract services so far; ordering nodes get digests only."""
    total = 0.0
    for name in processes.names():
        process = None if name.startswith("orderer") else processes.find(name)
        if process is not None:
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _describe(seconds: float | None) -> str:
    return f"not in {_TIMEOUT_S:.0f} s" if seconds is None else f"{seconds:.2f} s"


def describe_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table: seconds and processor-seconds by way and size of chunk."""
    found = {(row["way"], row["chunk_mib"]): f"{_describe(row['seconds'])}, {row['cpu_seconds']:.1f}" for row in rows}
    sizes = sorted({row["chunk_mib"] for row in rows})
    return tabulate(
        ["", *(f"{size} MiB" for size in sizes)], [[way, *(found[way, size] for size in sizes)] for way in WAYS]
    )


def main() -> None:
    """Measure, write the file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("build/bench/private_data.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blockfl-private-") as scratch:
        rows = measure(Path(scratch), reserve_ports(PORTS), arguments.turns)
    machine = {"load": round(os.getloadavg()[2], 1), "processors": os.cpu_count()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"rows": rows, **machine}, indent=2) + "\n")
    print(describe_rows(rows))


if __name__ == "__main__":
    main()
