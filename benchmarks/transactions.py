"""Small transactions on the embedded node: four organisations, three of which endorse; every process is real.

Compared in the same run with the same number of signatures, verifications and durable writes made bare, which is what
no implementation of the protocol could do without.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contract_network import connect, put_in_force, start
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import ChaincodeDefinition
from blockfl.fabric.identity.signing import Signer, verify_signature
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.description import Description
from blockfl.network.foundation import found
from blockfl.network.host import Host
from blockfl.network.layout import Layout
from blockfl.network.process import ProcessTable

ORGANISATIONS = ("alpha", "beta", "delta", "gamma")
ENDORSERS = 3
ONE, MANY, CLIENTS = 200, 1600, 16
CONTRACT = "keyvalue"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Median latency of one client, throughput of sixteen, and the bare work's time per transaction."""

    median_ms: float
    per_second: float
    bare_ms: float


def measure(base_port: int, one: int = ONE, many: int = MANY) -> Result:
    """Bring a network up, measure, take it down.

    Args:
        base_port: The first of its ports.
        one: How many transactions one client makes, one after the other.
        many: How many sixteen clients make together.
    """
    with tempfile.TemporaryDirectory(prefix="blockfl-bench-") as scratch:
        layout, processes = Layout(Path(scratch)), ProcessTable(Path(scratch))
        try:
            hosts = _start(layout, processes, base_port)
            return asyncio.run(_measure(layout, hosts, one, many))
        finally:
            processes.stop(processes.names())


def _start(layout: Layout, processes: ProcessTable, base_port: int) -> Sequence[Host]:
    roles = dict.fromkeys(ORGANISATIONS, "institution") | {"alpha": "committee, coordinator", "beta": "committee"}
    organisations = "".join(f"  - {{name: {name}, roles: [{role}], orderer: true}}\n" for name, role in roles.items())
    description = Description.parse(
        f"network: bench\nchannel: bench\ncontract: {CONTRACT}\nthreshold: 2\nbase_port: {base_port}\n"
        f"organisations:\n{organisations}",
        "bench.yaml",
    )
    hosts = found(description.for_ledger("embedded"), layout)
    start(hosts, layout, processes, "benchmarks.key_value")
    return hosts


async def _measure(layout: Layout, hosts: Sequence[Host], one: int, many: int) -> Result:
    definition = ChaincodeDefinition(name=CONTRACT, version="1")
    await put_in_force(hosts, definition)
    agent = ConnectionProfile.load(layout.organisation(ORGANISATIONS[0]).profile("agent"))
    async with connect(agent) as gateway:
        await _put(gateway, "warm", 50)
        latencies = await _put(gateway, "one", one)
    began = time.perf_counter()
    await asyncio.gather(*(_client(agent, f"client{number}", many // CLIENTS) for number in range(CLIENTS)))
    elapsed = time.perf_counter() - began
    return Result(
        median_ms=1000 * statistics.median(latencies),
        per_second=many / elapsed,
        bare_ms=1000 * _do_bare_work(agent.load_signer(), layout.directory),
    )


async def _client(profile: ConnectionProfile, name: str, count: int) -> None:
    async with connect(profile) as gateway:
        await _put(gateway, name, count)


async def _put(gateway: Gateway, prefix: str, count: int) -> list[float]:
    latencies = []
    for number in range(count):
        began = time.perf_counter()
        await gateway.submit(CONTRACT, "Put", f"{prefix}/{number}", "x" * 100)
        latencies.append(time.perf_counter() - began)
    return latencies


def _do_bare_work(signer: Signer, directory: Path) -> float:
    """Return the seconds of one transaction's cryptography and one durable write."""
    message = b"x" * 2000
    signatures = 2 + ENDORSERS + 1  # proposal, envelope; endorsements; block
    began = time.perf_counter()
    for _ in range(ONE):
        for _ in range(signatures):
            verify_signature(signer.identity.public_key, signer.sign(message), message)
        with (directory / "bare").open("ab") as file:
            file.write(message)
            file.flush()
            os.fsync(file.fileno())
    return (time.perf_counter() - began) / ONE


if __name__ == "__main__":
    print(measure(31000))
