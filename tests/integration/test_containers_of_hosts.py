"""Four organisations' own compose files on real Fabric: what each says runs, confined as it says, and founds a network.

No engine is needed: every service runs in namespaces of its own, with the file's mounts, user and command.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from examples.port_range import reserve_ports

from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.layout import OrganisationLayout
from blockfl.protocol import catalogue
from support.containers import Project, why_not
from support.founded import ROLES, found, say
from support.ledgers import LEDGERS

pytestmark = pytest.mark.slow
OWNER = 1000
SET_UP_S = 240


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Project]]:
    """Every organisation's services, set up: each by itself, at the same time."""
    if reason := LEDGERS["local"]() or why_not():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("hosts")
    founding = found(directory, reserve_ports(60))
    names = [f"{kind}.{name}" for name in ROLES for kind in ("peer", "orderer", "contract")]
    made = {}
    for name in ROLES:
        own = directory / name
        say("network", "compose", "-d", own, "--founding", founding)
        for path in (own, *own.rglob("*")):
            os.chown(path, OWNER, OWNER, follow_symlinks=False)
        data = directory / "institution-data"
        data.mkdir(exist_ok=True)
        variables = {
            "BLOCKFL_STATE": str(own),
            "BLOCKFL_DATA": str(data),
            "COMPOSE_PROJECT_NAME": f"project-{name}",
        }
        hosts = [*names, *(f"{one}.example" for one in ROLES)]
        made[name] = Project(own / "docker-compose.yaml", variables, directory / f"{name}.containers", hosts)
    with ExitStack() as stack:
        for project in made.values():
            project.services["provision"].run(60)
            stack.enter_context(project.running(*project.waits["setup"]))
        setups = [threading.Thread(target=project.services["setup"].run, args=(SET_UP_S,)) for project in made.values()]
        for one in setups:
            one.start()
        for one in setups:
            one.join()
        yield made


def place(projects: dict[str, Project], name: str) -> OrganisationLayout:
    return OrganisationLayout(projects[name].services["setup"].log.parents[1] / name)


def test_each_hosts_set_up_ends_with_the_contract_in_force(projects: dict[str, Project]) -> None:
    for name, project in projects.items():
        said = project.services["setup"].log.read_text()
        assert "definition 1 is in force" in said, f"{name}: {said}"


def test_from_each_host_the_consortium_is_seen_through_its_own_published_port(projects: dict[str, Project]) -> None:
    async def read(name: str) -> int:
        async with Ledger(ConnectionProfile.load(place(projects, name).profile("agent"))) as ledger:
            return len((await ledger.read(catalogue.CONSORTIUM.key())).members)

    assert [asyncio.run(read(name)) for name in projects] == [4, 4, 4, 4]


def test_the_command_of_the_tools_container_reaches_the_ledger(projects: dict[str, Project]) -> None:
    said = projects["hospital"].services["blockfl"].run(60, ["blockfl", "task", "list", "--json"])
    assert said.strip().splitlines()[-1].endswith("[]")


def test_an_aggregator_runs_and_is_healthy(projects: dict[str, Project]) -> None:
    with projects["coordinator"].running("aggregator-coordinator"):
        pass


def test_a_container_sees_no_key_but_those_that_it_needs(projects: dict[str, Project]) -> None:
    find = ["find", "/network", "/var/hyperledger", "-name", "*key*", "-not", "-path", "*/ledger/*"]
    seen = projects["hospital"].services["peer-hospital"].run(30, find).split()
    own = "/network/organisations/own/peer"
    keys = [path for path in seen if path.endswith((".pem", "opening-key"))]
    assert sorted(keys) == [f"{own}/key.pem", f"{own}/msp/keystore/key.pem", f"{own}/tls-key.pem"]


def test_a_second_set_up_leaves_everything_as_it_is(projects: dict[str, Project]) -> None:
    hospital = projects["hospital"].services
    hospital["provision"].run(60)
    assert "in force" in hospital["setup"].run(60)
