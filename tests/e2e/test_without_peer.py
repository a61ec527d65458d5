"""An institution without a peer takes part in every round, also when the gateway that it uses is gone in the middle."""

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest
from examples.port_range import reserve_ports

from blockfl.fabric.channel.endorsing import list_endorsing
from blockfl.ledger.client import Ledger
from blockfl.network.administration import Administrator
from blockfl.network.description import Description, default_description
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from support.federation_processes import INSTITUTIONS, PORTS, FederationProcesses
from support.passage import Passage

TASK, DIMENSION, ROUNDS = "without-peer", 2000, 4
GUEST, GATEWAYS = "switzerland", ("regulator", "university")
WAIT_S = 300
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Iterator[FederationProcesses]:
    if ledger_kind == "compose":
        pytest.skip("containers of one machine are made for organisations with peers")
    base_port = reserve_ports(PORTS)
    text = default_description().replace("base_port: 17050", f"base_port: {base_port}")
    lines = text.replace(f"  - name: {GUEST}\n", f"  - name: {GUEST}\n    gateways: [{', '.join(GATEWAYS)}]\n")
    description = Description.parse(lines, "consortium.yaml")
    running = FederationProcesses(
        tmp_path_factory.mktemp("federation"), base_port, ledger_kind, description=description
    )
    try:
        running.up()
        running.start_aggregators()
        yield running
    finally:
        running.down()


def test_it_runs_nothing_and_the_others_endorse_without_it(federation: FederationProcesses) -> None:
    names = {row.name for row in Network.open(federation.network).status()}
    assert names
    assert not [name for name in names if name.endswith(GUEST)]
    organisation = Network.open(federation.network).description.organisation(GUEST)
    for _, port in organisation.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"somebody listens on port {port}"
    place = Layout(federation.network).organisation(GUEST)
    assert not any(place.node(kind, "tls-key.pem").exists() for kind in ("peer", "orderer", "contract"))
    config = asyncio.run(Administrator(federation.profile("regulator", "admin")).read())
    assert list_endorsing(config) == tuple(sorted({*config.application_msp_ids} - {GUEST}))
    assert GUEST in config.application_msp_ids
    found = federation.query("network", "check", organisation="regulator")
    assert [row for row in found if row["is_fatal"]] == []


def read_log(federation: FederationProcesses) -> str:
    return (federation.directory / "logs" / f"institution-{GUEST}-{TASK}.log").read_text()


async def wait_for_submission(federation: FederationProcesses, number: int) -> None:
    """Wait until the institution has submitted its update of a round."""
    async with Ledger(federation.profile("university")) as ledger, asyncio.timeout(WAIT_S):
        async for event in ledger.events(start_block=0):
            notice = event.notice
            if (event.name, notice.round, notice.organisation) == ("UpdateSubmitted", number, GUEST):
                return


async def test_it_goes_on_over_its_second_gateway_with_no_round_lost(federation: FederationProcesses) -> None:
    path = federation.profile_path(GUEST)
    profile = json.loads(path.read_text())
    with Passage(profile["gateways"][0]["endpoint"]) as way:
        profile["gateways"][0]["endpoint"] = way.address
        path.write_text(json.dumps(profile))
        await asyncio.to_thread(federation.create_task, TASK, dimension=DIMENSION, rounds=ROUNDS)
        federation.start_institutions(TASK, dimension=DIMENSION)
        await wait_for_submission(federation, 2)
        assert way.connections > 0
        assert "going on over" not in read_log(federation)
        way.close()
        await asyncio.to_thread(federation.wait_for_institutions, TASK, WAIT_S)
    assert "going on over the gateway of university" in read_log(federation)
    rounds = await asyncio.to_thread(federation.query, "audit", "rounds", "--task", TASK, organisation="hungary")
    assert [(row["round"], row["state"], row["accepted"]) for row in rounds] == [
        (number, "published", list(INSTITUTIONS)) for number in range(1, ROUNDS + 1)
    ]


def test_it_audits_the_ledger_over_the_gateway_that_is_left(federation: FederationProcesses) -> None:
    report = federation.query("audit", "verify", organisation="hungary")
    assert report["verified"] is True
    assert GUEST not in {name for counts in report["endorsements"].values() for name in counts}
    path = federation.profile_path(GUEST)
    profile = json.loads(path.read_text())
    profile["gateways"].reverse()
    path.write_text(json.dumps(profile))
    mine = federation.query("audit", "verify", organisation=GUEST)
    assert mine["verified"] is True
    assert mine["blocks"] >= report["blocks"]
