"""An institution joins a consortium that has had rounds already, and takes part in the next ones.

A simulation of the same task gives the same model, bit for bit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from examples.port_range import reserve_ports

from blockfl.ledger.client import Ledger
from blockfl.ledger.transfer import fetch_blob
from blockfl.network.description import Description
from blockfl.network.organisation import Organisation, Ports
from blockfl.protocol import catalogue
from blockfl.simulation.simulation import simulate
from support.federation_processes import INSTITUTIONS, PORTS, FederationProcesses
from support.simulated_site import NumpySite
from support.training import NumpyTraining

NEWCOMER = "zurich"
DIMENSION, ROUNDS = 500, 2


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Iterator[FederationProcesses]:
    base_port = reserve_ports(PORTS + 10)
    default = Description.load_default(base_port)
    running = FederationProcesses(tmp_path_factory.mktemp("growth"), base_port, ledger_kind, default)
    try:
        running.up()
        running.start_aggregators()
        yield running
    finally:
        running.down()


def extended(federation: FederationProcesses) -> Description:
    before = federation.description
    assert before is not None
    newcomer = Organisation(name=NEWCOMER, roles=["institution"], ports=Ports.from_base(federation.base_port + PORTS))
    return before.model_copy(update={"organisations": [*before.organisations, newcomer], "sequence": 2})


async def simulate_task(ledger: Ledger, name: str) -> str:
    """Return the digest of the last version that a simulation of the task makes, with the institutions' own seeds."""
    spec = (await ledger.read(catalogue.TASK.key(name))).spec
    seeds = {institution: number for number, institution in enumerate(INSTITUTIONS)}
    sites = {one: NumpySite(NumpyTraining(spec.manifest, seed=seed)) for one, seed in seeds.items()}
    samples = {one.organisation: one.samples for one in await ledger.read_all(catalogue.ENROLMENTS.below(name))}
    initial = await fetch_blob(ledger, name, spec.initial_model)
    results = await asyncio.to_thread(lambda: list(simulate(spec, initial, sites, samples, seeds=seeds)))
    return results[-1].digest


@pytest.mark.slow
async def test_an_institution_that_joins_later_takes_part_in_rounds_and_the_ledger_verifies(
    federation: FederationProcesses,
) -> None:
    federation.create_task("before", dimension=DIMENSION, rounds=ROUNDS)
    federation.start_institutions("before", dimension=DIMENSION)
    federation.wait_for_institutions("before")
    federation.extend(extended(federation))
    assert federation.institutions == (*INSTITUTIONS, NEWCOMER)
    async with Ledger(federation.profile(INSTITUTIONS[0])) as ledger:
        published = await ledger.read(catalogue.MODEL.key("before", ROUNDS))
        assert published.digest == await simulate_task(ledger, "before")
    # The aggregators went on; what they see of the consortium is the ledger's.
    federation.create_task("after", dimension=DIMENSION, rounds=ROUNDS)
    federation.start_institutions("after", dimension=DIMENSION)
    federation.wait_for_institutions("after")
    async with Ledger(federation.profile(NEWCOMER)) as ledger:
        for task, members in (("before", INSTITUTIONS), ("after", (*INSTITUTIONS, NEWCOMER))):
            rounds = await ledger.read_all(catalogue.ROUNDS.below(task))
            assert [round_.accepted for round_ in rounds] == [members] * ROUNDS
            assert {round_.state for round_ in rounds} == {"published"}
        digests = {metrics.model_digest for metrics in await ledger.read_all(catalogue.REPORTS.below("after", ROUNDS))}
        assert digests == {(await ledger.read(catalogue.MODEL.key("after", ROUNDS))).digest}
    # A real peer fetches what its organisation may have by now from others; the embedded node does not (embedded.md).
    for auditor in ("regulator", *(() if federation.ledger == "embedded" else (NEWCOMER,))):
        report = federation.query("audit", "verify", organisation=auditor)
        assert report["verified"] is True
