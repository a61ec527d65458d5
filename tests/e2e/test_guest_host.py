"""A host that opens no port: its institution takes part on Fabric over two others' gateways, and outlives the first."""

import re
import sys
from collections.abc import Iterator

import pytest
from examples.hosts.founding import FOUNDERS, Founder
from examples.hosts.host import HostError
from examples.hosts.hosts import Hosts
from examples.hosts.link import Link

from support.far import TASK, Far, find_reason

ROUNDS = 6
COMMITTEE = ("coordinator", "regulator", "university")
GUEST, FIRST, SECOND = "switzerland", "regulator", "university"
INSTITUTIONS = ("cleveland", "hungary", GUEST)
MEMBERS = {name: FOUNDERS[name] for name in (*COMMITTEE, "cleveland", "hungary")} | {
    GUEST: Founder(roles=["institution"], gateways=[FIRST, SECOND])
}
_OVER = re.compile(r"going on over the gateway of (\w+)")


REASON = find_reason()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]


class Guests(Far):
    """Six hosts, one of which lets nobody in, and a task that runs."""

    def begin(self, rounds: int) -> None:
        self.hosts.close_ports(GUEST)
        super().begin(rounds)

    def read_log(self) -> str:
        """What the agent without a peer has said."""
        return self.log(GUEST, f"institution-{TASK}").read_text(errors="replace")

    def find_gateway(self) -> str:
        """The organisation whose gateway the agent uses: one that was behind for a moment may have been left."""
        changes: list[str] = _OVER.findall(self.read_log())
        return [FIRST, *changes][-1]


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    directory = tmp_path_factory.mktemp("guests") / "stage"
    with Hosts.make(directory, list(MEMBERS), Link(delay_ms=10), captures=False) as hosts:
        made = Guests(hosts, MEMBERS)
        made.begin(ROUNDS)
        yield made


def test_a_host_that_lets_nobody_in_has_every_part_of_the_consortium_but_nodes(guests: Guests) -> None:
    assert {name: row["state"] for name, row in guests.status(GUEST).items()} == {
        f"gateway-{FIRST}": "running",
        f"gateway-{SECOND}": "running",
    }
    commands = {" ".join(process.cmdline()) for process in guests.hosts[GUEST].processes()}
    assert not [one for one in commands if "orderer" in one or "peer node" in one or "blockfl.contract" in one]
    found = guests.query("hungary", "network", "check")
    assert [row for row in found if row["is_fatal"]] == []


def test_its_gateway_loses_its_power_in_the_middle_and_no_round_is_lost(guests: Guests) -> None:
    guests.wait_for_round(2, "coordinator")
    lost = guests.find_gateway()
    left = SECOND if lost == FIRST else FIRST
    before = len(guests.read_log())
    guests.hosts.power_off(lost)
    guests.wait_for_round(ROUNDS, left)
    said = guests.read_log()[before:]
    assert f"going on over the gateway of {left}" in said, said[-3000:]
    rounds = guests.query("hungary", "audit", "rounds", "--task", TASK)
    assert [(row["round"], row["state"], row["accepted"]) for row in rounds] == [
        (number, "published", list(INSTITUTIONS)) for number in range(1, ROUNDS + 1)
    ]
    assert guests.query("hungary", "audit", "verify")["verified"] is True


def test_nobody_but_the_organisations_with_peers_endorsed(guests: Guests) -> None:
    report = guests.query("hungary", "audit", "verify")
    endorsers = {name for counts in report["endorsements"].values() for name in counts}
    assert endorsers == set(MEMBERS) - {GUEST}
    with pytest.raises(HostError):
        guests.hosts["hungary"].run([sys.executable, "-c", _connect(guests, GUEST)], timeout_s=20)


def _connect(guests: Guests, name: str) -> str:
    address = guests.hosts[name].place.address
    return f"import socket; socket.create_connection(({address!r}, 17050), timeout=5)"
