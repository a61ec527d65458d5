"""Calls of the contract made again in a process of its own, and what came of each: the same bytes wherever it runs.

python -m support.replication < calls.json
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import locale
import sys
import time
from typing import Any

import numpy as np

from blockfl.fabric.identity.signing import Identity
from support.chronicle import Chronicle
from support.world import Refused, Simulation, Transaction, World


def encode_calls(chronicle: Chronicle) -> bytes:
    """Return everything that it takes to make the calls again."""
    calls = [
        {
            "peer": call.peer,
            "creator": call.creator.hex(),
            "arguments": [one.hex() for one in call.arguments],
            "transient": {name: value.hex() for name, value in call.transient.items()},
            "timestamp_ms": call.timestamp_ms,
        }
        for call in chronicle.calls
    ]
    return json.dumps({"calls": calls, "steps": chronicle.steps}).encode()


def describe_simulation(simulation: Simulation) -> str:
    """Return all that endorsers sign, and the order in which it came, as text."""
    return repr(
        (
            simulation.payload,
            simulation.event,
            list(simulation.reads.items()),
            simulation.ranges,
            list(simulation.writes.items()),
            list(simulation.policies.items()),
            sorted(simulation.private_reads),
        )
    )


def describe_outcomes(chronicle: Chronicle) -> list[str]:
    """Return what came of each call, in the words of `replicate`."""
    return [
        digest(describe_simulation(call.simulation) if call.simulation else call.refusal) for call in chronicle.calls
    ]


def digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


async def replicate(said: dict[str, Any]) -> list[str]:
    """Make calls again, on a ledger that begins empty, and return what came of each."""
    world = World()
    outcomes: list[str] = []
    simulations: dict[int, Simulation] = {}
    for kind, index, *committed in said["steps"]:
        if kind == "commit":
            endorsers, code = committed
            if world.commit(Transaction(simulations[index], tuple(endorsers))) != code:
                raise AssertionError(f"call {index} was {code} before")
            continue
        call = said["calls"][index]
        creator = Identity.parse(bytes.fromhex(call["creator"]))
        try:
            simulations[index] = await world.simulate(
                call["peer"],
                creator.msp_id,
                "",
                raw=[bytes.fromhex(one) for one in call["arguments"]],
                transient={name: bytes.fromhex(value) for name, value in call["transient"].items()},
                identity=creator,
                timestamp_ms=call["timestamp_ms"],
            )
            outcomes.append(digest(describe_simulation(simulations[index])))
        except Refused as refusal:
            outcomes.append(digest(refusal.text))
    return outcomes


def describe_process() -> dict[str, Any]:
    """Return what differs between processes, so that a test can see that it did."""
    from numpy._core import _multiarray_umath as umath  # type: ignore[attr-defined]

    enabled = sorted(name for name, on in umath.__cpu_features__.items() if on)
    return {
        "hash": hash("blockfl"),
        "features": enabled,
        "zone": time.strftime("%z", time.localtime(0)),
        "locale": locale.setlocale(locale.LC_CTYPE),
        "numpy": np.__version__,
    }


def main() -> None:
    """Read calls from the standard input, make them, write what came of them."""
    locale.setlocale(locale.LC_ALL, "")
    said = json.loads(sys.stdin.buffer.read())
    outcomes = asyncio.run(replicate(said))
    print(json.dumps({"process": describe_process(), "outcomes": outcomes}))


if __name__ == "__main__":
    main()
