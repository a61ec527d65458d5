"""Rounds that only move bytes: the same network, the same uploads and reads, and a contract that judges nothing.

    measure(directory, base_port, [10_000, 1_000_000], rounds=5)       # {10000: 0.21, 1000000: 0.65}, seconds a round

One organisation, one process, as in a real round. In a round each institution uploads what is as long as its sealed
update; each member of the committee reads all of them; one uploads the sum for the committee, which reads it, and
then for all, who read it. Nothing is sealed, committed to, signed by a member, judged, summed or voted for. What a real
round takes longer than this is the price of its rules, not of the ledger.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from benchmarks.consortium import COMMITTEE, describe
from benchmarks.contract_network import connect, put_in_force, start
from blockfl.contract.definition import contract_definition
from blockfl.fabric.client.gateway import Gateway
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.transfer import IN_FLIGHT
from blockfl.network.foundation import found
from blockfl.network.host import Host
from blockfl.network.layout import Layout
from blockfl.network.process import ProcessTable
from blockfl.protocol.catalogue import MODEL_COLLECTION, SEALED_COLLECTION
from blockfl.protocol.records import CHUNK_BYTES
from blockfl.protocol.sums import compute_sum_bytes

_UPDATE_BYTES = 2
"""Of each value of an update: 16 bits."""


class _Mover:
    """The process of one organisation."""

    def __init__(self, host: Host) -> None:
        command = [sys.executable, "-m", "benchmarks.moving", "--profile", str(host.layout.profile("agent"))]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parents[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def ask(self, **order: Any) -> None:
        """Have it put or get something; `wait` waits for the end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        """Wait until it is done."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError("a mover of bytes ended before its work was done")


def measure(directory: Path, base_port: int, dimensions: Sequence[int], rounds: int) -> dict[int, float]:
    """Bring a network up, move the bytes of rounds of each size, take it down.

    Args:
        directory: An empty one.
        base_port: The first of the network's ports.
        dimensions: The sizes.
        rounds: Of each size; the first is not measured.

    Returns:
        By size, the median of seconds a round.
    """
    layout, processes = Layout(directory), ProcessTable(directory)
    hosts = found(describe(4, base_port).for_ledger("embedded"), layout)
    try:
        start(hosts, layout, processes, "benchmarks.moving_contract")
        asyncio.run(put_in_force(hosts, contract_definition(hosts[0].load_consortium())))
        with ExitStack() as stack:
            movers = {one.name: stack.enter_context(_Mover(one)) for one in hosts}
            return {one: statistics.median(_move(hosts, movers, one, rounds)[1:]) for one in dimensions}
    finally:
        processes.stop(processes.names())


def _move(hosts: Sequence[Host], movers: dict[str, _Mover], dimension: int, rounds: int) -> list[float]:
    consortium = hosts[0].load_consortium()
    # Every member endorses what is private, as in a real round: it has the bytes then, and asks nobody for them.
    sealed = {"collection": SEALED_COLLECTION, "organisations": consortium.committee}
    public = {"collection": MODEL_COLLECTION, "organisations": consortium.endorsing}
    institutions = [name for name in movers if name not in COMMITTEE]
    update = cut(_UPDATE_BYTES * dimension)
    total = cut(compute_sum_bytes(dimension, committed=True))
    seconds = []
    for number in range(rounds):
        began, place = time.perf_counter(), f"{dimension}/{number}"
        _all(movers, institutions, "put", update, [place], sealed)
        _all(movers, COMMITTEE, "get", update, [f"{place}/{name}" for name in institutions], sealed)
        first, *others = COMMITTEE
        for where, readers in ((sealed, others), (public, institutions)):
            _all(movers, [first], "put", total, [f"{place}/sum"], where)
            _all(movers, readers, "get", total, [f"{place}/sum/{first}"], where)
        seconds.append(time.perf_counter() - began)
    return seconds


def _all(
    movers: dict[str, _Mover],
    names: Sequence[str],
    what: str,
    sizes: Sequence[int],
    places: Sequence[str],
    where: dict[str, Any],
) -> None:
    """Have organisations do the same at the same time; what one puts is under its own name."""
    for name in names:
        own = [f"{place}/{name}" for place in places] if what == "put" else places
        movers[name].ask(do=what, sizes=sizes, places=own, **where)
    for name in names:
        movers[name].wait()


def cut(size_bytes: int) -> list[int]:
    """Return the sizes of the chunks of so many bytes."""
    whole, rest = divmod(size_bytes, CHUNK_BYTES)
    return [CHUNK_BYTES] * whole + [rest] * bool(rest)


async def _serve(profile: ConnectionProfile) -> None:
    """Do what the lines of the standard input ask for."""
    async with connect(profile) as gateway:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order, gate = json.loads(line), asyncio.Semaphore(IN_FLIGHT)
            work = [
                _transfer(gateway, profile.contract, gate, order, f"{place}/{index}", size)
                for place in order["places"]
                for index, size in enumerate(order["sizes"])
            ]
            await asyncio.gather(*work)
            sys.stdout.write("done\n")
            sys.stdout.flush()


async def _transfer(
    gateway: Gateway, contract: str, gate: asyncio.Semaphore, order: dict[str, Any], key: str, size: int
) -> None:
    collection = order["collection"]
    async with gate:
        if order["do"] == "put":
            organisations = order["organisations"]
            chunk = {"chunk": os.urandom(size)}
            await gateway.submit(contract, "Put", collection, key, transient=chunk, organisations=organisations)
        elif len(await gateway.evaluate(contract, "Get", collection, key)) != size:
            raise RuntimeError(f"{collection}/{key} is not what was put there")


def main() -> None:
    """Be the process of one organisation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, required=True)
    asyncio.run(_serve(ConnectionProfile.load(parser.parse_args().profile)))


if __name__ == "__main__":
    main()
