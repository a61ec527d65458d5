"""A ledger with a history worth telling, played on an embedded node with the real contract, and its evidence bundle.

Task "heart", with credits and a hostile title: round 1 is honest; in round 2 gamma sends too much, is rejected and pays
for it, and the others overturn that; in round 3 beta signs two updates. Versions 1 to 3 come of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from blockfl.audit.bundle import Bundle
from blockfl.audit.chain import ChainProof
from blockfl.audit.export import export_evidence
from blockfl.fabric.channel.block import header_hash
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.economics import DEFAULT_ECONOMICS, TREASURY
from support.consortium import CHANNEL
from support.contract_network import ContractNetwork, contract_network
from support.paid_task import DIMENSION
from support.scenario import Scenario, make_spec

HOSTILE = "Heart <script>alert(1)</script> & =SUM(A1)"
BUNDLE = "played.bundle"
CERTIFICATE = "5" * 64
INSTITUTIONS = ("alpha", "beta", "delta", "gamma")


@dataclass(frozen=True, kw_only=True)
class Played:
    """What the story left: a bundle, and what an auditor trusts."""

    bundle: Path
    genesis_hash: bytes
    last_hash: str

    @property
    def orderer(self) -> Path:
        """Where the ordering node's certificate and key are, without their endings; the node is alpha's."""
        return self.bundle.parent / "network" / "alpha" / "orderer"


def play(directory: Path) -> Played:
    """Play the story in a directory of its own and export the evidence."""
    return asyncio.run(_play(directory))


def find_played(directory: Path) -> Played | None:
    """Return what a story that was played there before has left, None if none was."""
    path = directory / BUNDLE
    if not path.exists():
        return None
    with Bundle.open(path) as bundle:
        first = bundle.block(0)
        assert first is not None
        return Played(bundle=path, genesis_hash=header_hash(first.header), last_hash=bundle.manifest.last_hash)


async def _play(directory: Path) -> Played:
    spec, model = make_spec(dimension=DIMENSION)
    paid = spec.model_copy(update={"economics": DEFAULT_ECONOMICS, "title": HOSTILE})
    async with contract_network(directory / "network", "embedded", (paid, model)) as (scenario, network):
        await tell_story(scenario, network)
        return await export(network, directory / BUNDLE)


async def tell_story(scenario: Scenario, network: ContractNetwork) -> None:
    """Play the three rounds."""
    await scenario.register()
    await scenario.create()
    for name in (TREASURY, *INSTITUTIONS):
        await network.submit("coordinator", "Grant", f"grant-{name}", name, "20000")
    await scenario.enrol()
    file = scenario.initial_model
    for number in (1, 2, 3):
        await scenario.open(number)
        await _contribute(scenario, number)
        await scenario.close(number)
        await scenario.attest(number)
        file = await scenario.publish(number, file)
        for name in INSTITUTIONS:
            await network.submit(name, "ReportMetrics", scenario.metrics(name, number, file).encode())
        await network.submit("regulator", "ScoreRound", "heart", str(number), endorsers=network.record.committee)
        await network.submit("gamma", "SettleRound", "heart", str(number))
    for name in ("alpha", "beta", "coordinator", "delta"):
        await network.submit(name, "OverturnPenalty", "heart", "2", "gamma")
    await network.submit("delta", "RequestErasure", "heart")
    for erased in ("1", "2"):
        await network.submit("delta", "EraseUpdate", "heart", erased, "delta", endorsers=network.record.committee)
    await network.submit("delta", "WithdrawCertificate", CERTIFICATE)


async def _contribute(scenario: Scenario, number: int) -> None:
    for name in INSTITUTIONS:
        values = np.full(DIMENSION, 32767, dtype=np.int16) if (name, number) == ("gamma", 2) else None
        signed = await scenario.submit(name, number, values)
        await scenario.upload(name, number)
        if (name, number) == ("beta", 3):
            other = signed.header.model_copy(update={"payload_digest": compute_digest(b"another update")})
            await scenario.ledger.submit(name, "SubmitUpdate", scenario.sign(other).encode())
        else:
            await scenario.judge(name, number)


async def export(network: ContractNetwork, path: Path) -> Played:
    """Write the evidence of a running network, as a member's command does."""
    gateway = network.gateways["university"]

    async def read_model_chunk(task: str, digest: str) -> bytes:
        return await network.evaluate("university", "ReadModelChunk", task, digest)

    ledger: Any = SimpleNamespace(
        gateway=gateway,
        signer=gateway.signer,
        profile=SimpleNamespace(channel=CHANNEL, contract=network.name),
        read_model_chunk=read_model_chunk,
    )
    first = [block async for block in _first(gateway)]
    anchor = header_hash(first[0].header)
    chain = ChainProof(genesis_hash=anchor, namespace=network.name)
    done = await export_evidence(ledger, chain, path, [], lambda _: None)
    return Played(bundle=path, genesis_hash=anchor, last_hash=done.last_hash)


async def _first(gateway: Any) -> Any:
    async for block in gateway.blocks(0):
        yield block
        return
