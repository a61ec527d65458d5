"""A contract service stays small, whatever it opens and however much of it at once: measured on the real process."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.ledger.answer import decode_list
from blockfl.protocol.aggregation import Median
from blockfl.protocol.blob import split_blob
from blockfl.protocol.economics import DEFAULT_ECONOMICS, Score
from blockfl.protocol.records import Aggregate, Update
from support.federation import INSTITUTIONS, NOW_MS, make_consortium
from support.scenario import Scenario, make_spec
from support.service import OPENING_KEY, running_service, write_service
from support.shim_peer import ShimPeer, dial
from support.world import World

DIMENSION = 1_000_000
LIMIT_MB = 250
TIMES = 3


async def test_judging_and_summing_a_million_parameters_stays_under_the_limit(tmp_path: Path) -> None:
    world = World(make_consortium())
    world.opening_keys["regulator"] = X25519PrivateKey.from_private_bytes(bytes.fromhex(OPENING_KEY))
    world.configure("regulator", world.consortium)
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys, make_spec(dimension=DIMENSION))
    await scenario.prepare()
    await scenario.open()
    for name in INSTITUTIONS:
        await scenario.submit(name)
        await scenario.upload(name)
    files = write_service(tmp_path, world.consortium, "regulator")
    async with running_service(files) as (process, said), dial(files.tls.endpoint(said["address"])) as peer:
        peer.state = ledger_of(world)
        judged = await calls(peer, world, [("JudgeUpdate", "heart", "1", name) for name in INSTITUTIONS])
        assert {one.state for payload in judged for one in decode_list(Update, payload)} == {"accepted"}
        for name in INSTITUTIONS:
            await scenario.judge(name)
        await scenario.close()
        total = await scenario.total()
        await scenario.upload_sum("coordinator", total)
        peer.state = ledger_of(world)
        attested = await calls(peer, world, [("AttestAggregate", "heart", "1", split_blob(total)[0].encode())])
        assert {Aggregate.decode(payload).state for payload in attested} == {"attested"}
        check_peak(process.pid)


async def test_comparing_and_scoring_a_million_parameters_stays_under_the_limit(tmp_path: Path) -> None:
    world = World(make_consortium())
    world.opening_keys["regulator"] = X25519PrivateKey.from_private_bytes(bytes.fromhex(OPENING_KEY))
    world.configure("regulator", world.consortium)
    spec, model = make_spec(dimension=DIMENSION, aggregation=Median())
    paid = spec.model_copy(update={"economics": DEFAULT_ECONOMICS})
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys, (paid, model))
    await scenario.register()
    await scenario.create()
    for name in INSTITUTIONS:
        await world.submit("coordinator", "Grant", f"stake-{name}", name, "10000")
    await scenario.enrol()
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    total = await scenario.upload_sum("coordinator", await scenario.total())
    attest = ("AttestAggregate", "heart", "1", total.encode())
    files = write_service(tmp_path, world.consortium, "regulator")
    async with running_service(files) as (process, said), dial(files.tls.endpoint(said["address"])) as peer:
        peer.state = ledger_of(world)
        attested = await calls(peer, world, [attest])
        assert {Aggregate.decode(payload).state for payload in attested} == {"attested"}
        await world.submit("coordinator", *attest, endorsers=world.consortium.committee)
        await scenario.publish(1, model)
        peer.state = ledger_of(world)
        scored = await calls(peer, world, [("ScoreRound", "heart", "1")])
        assert {len(Score.decode(payload).credits) for payload in scored} == {len(INSTITUTIONS)}
        check_peak(process.pid)


def check_peak(pid: int) -> None:
    """Check the most memory that a process ever had."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    assert int(peak[1]) / 1024 < LIMIT_MB


async def calls(peer: ShimPeer, world: World, wanted: list[tuple[Any, ...]]) -> list[bytes]:
    """Run each call several times, all at once; return the payloads."""
    creator = world.signers["regulator"].identity
    answers = await asyncio.gather(
        *(
            peer.call(*one, tx_id=f"{one[0]}{number}-{again}", creator=creator, seconds=NOW_MS // 1000)
            for number, one in enumerate(wanted)
            for again in range(TIMES)
        )
    )
    assert [response.message for response, _ in answers] == [""] * len(answers)
    # The peer of this test keeps what a transaction writes at once; the contract must not mind.
    return [bytes(response.payload) for response, _ in answers]


def ledger_of(world: World) -> dict[tuple[str, str], bytes]:
    """Return what the regulator's peer knows."""
    state = {at: cell.value for at, cell in world.snapshot().items() if not at[0]}
    for at in world.snapshot():
        held = world.held("regulator", at)
        if held is not None:
            state[at] = held.value
    return state
