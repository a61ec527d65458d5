"""Seven hosts on Fabric that change under a running task: who is in it, certificates, a lost disk; no round is lost."""

import json
import shutil
from collections.abc import Iterator

import pytest
from examples.hosts.founding import Founder, blockfl
from examples.hosts.hosts import Hosts
from examples.hosts.link import Link

from support.far import TASK, Far, find_reason

ROUNDS = 1000
FOUNDERS = {
    "coordinator": Founder(roles=["committee", "coordinator"], orders=True),
    "regulator": Founder(roles=["committee"], orders=True),
    "university": Founder(roles=["committee", "institution"], orders=True),
    "cleveland": Founder(roles=["institution"], orders=True),
    "hungary": Founder(roles=["institution"]),
}
NEWCOMERS = {
    "geneva": Founder(roles=["committee"], orders=True),
    "lausanne": Founder(roles=["institution"]),
}
INSTITUTIONS = ["cleveland", "hungary", "university"]
LEFT = [name for name in (*FOUNDERS, *NEWCOMERS) if name != "regulator"]
REASON = find_reason()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or ""), pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    directory = tmp_path_factory.mktemp("changing") / "stage"
    hosts = Hosts.make(directory, [*FOUNDERS, *NEWCOMERS], Link(delay_ms=40, jitter_ms=5, loss=0.001), captures=False)
    with hosts as made:
        far = Far(made, FOUNDERS)
        far.begin(ROUNDS)
        far.wait_for_round(1, "coordinator")
        yield far


def make_terms(far: Far, record: str, *options: str) -> None:
    """Have the coordinator write the next record of the members."""
    own = str(far.consortium.part("coordinator") / "consortium.json")
    command = blockfl("network", "terms", "--after", own, *options, "--output", far.path("coordinator", record))
    far.hosts["coordinator"].run(command)


def list_ordering(far: Far, name: str) -> list[str]:
    """The organisations with an ordering node, as a host's peer knows the channel."""
    shown = json.loads(far.admin(name, "config", "show", "--json"))
    return [row["organisation"] for row in shown["organisations"] if row["ordering_nodes"]]


def test_organisations_join_from_their_own_hosts_with_and_without_an_ordering_node(far: Far) -> None:
    # Each newcomer counts among those of whom a majority signs the next update.
    signers = {"geneva": ["coordinator", "regulator", "university"]}
    signers["lausanne"] = [*signers["geneva"], "hungary"]
    for name, founder in NEWCOMERS.items():
        far.consortium.make_part(name, founder)
        far.hosts.hand_over(name, far.consortium.part(name) / "member.json", "coordinator", f"members/{name}.json")
        member, update = far.path("coordinator", f"members/{name}.json"), far.path("coordinator", f"{name}.update")
        far.admin("coordinator", "config", "add", member, "--output", update)
        far.sign_and_submit("coordinator", f"{name}.update", signers[name])
    members = ["--member", "geneva=committee", "--member", "lausanne=institution"]
    make_terms(far, "joined.json", *members, "--threshold", "3")
    far.hand_over("coordinator", "joined.json", *FOUNDERS, *NEWCOMERS)
    for file in ("founding.json", *(f"founding.json.{name}.signature" for name in FOUNDERS)):
        far.hand_over("coordinator", file, *NEWCOMERS)
    far.agree("joined.json", list(FOUNDERS), list(NEWCOMERS))
    far.start_aggregator("geneva")
    far.wait_for_next_rounds(2, "coordinator")
    far.wait_for_round(far.find_published("coordinator"), "geneva")
    assert "registered the opening key" in far.log("geneva", "aggregator").read_text()
    assert list_ordering(far, "lausanne") == ["cleveland", "coordinator", "geneva", "regulator", "university"]


def test_certificates_are_renewed_on_their_own_hosts(far: Far) -> None:
    far.network("hungary", "renew", "peer-hungary", "contract-hungary", "dialling-hungary", "admin-hungary")
    far.wait_for_next_rounds(1, "coordinator")
    command = blockfl("network", "renew", "orderer-cleveland", "-d", str(far.consortium.part("cleveland")))
    said = far.hosts["cleveland"].run(["sh", "-c", '"$@" 2>&1 || true', "sh", *command]).decode()
    assert "have the other ordering organisations sign it" in " ".join(said.split())
    update = "part/orderer-renewal.update"
    far.hosts.hand_over("cleveland", far.hosts["cleveland"].directory / update, "coordinator", "renewal.update")
    far.sign_and_submit("coordinator", "renewal.update", ["coordinator", "regulator", "university"])
    far.network("cleveland", "renew", "orderer-cleveland")
    far.wait_for_next_rounds(2, "coordinator")
    assert far.status("cleveland")["orderer-cleveland"]["error"] == ""


def test_a_host_whose_disk_is_lost_comes_back_from_its_backup(far: Far) -> None:
    part, kept = far.consortium.part("hungary"), far.path("hungary", "kept.backup")
    far.network("hungary", "backup", kept)
    far.hosts.power_off("hungary")
    shutil.rmtree(part)
    far.hosts.power_on("hungary")
    far.network("hungary", "restore", kept)
    far.network("hungary", "up")
    far.start_agent("hungary")
    far.wait_for_next_rounds(2, "coordinator")
    assert {row["error"] for row in far.status("hungary").values()} == {""}


def test_an_organisation_leaves_with_its_ordering_node(far: Far) -> None:
    make_terms(far, "left.json", "--remove", "regulator", "--threshold", "2")
    far.hand_over("coordinator", "left.json", *LEFT)
    far.agree("left.json", LEFT)
    far.admin("coordinator", "config", "remove", "regulator", "--output", far.path("coordinator", "leave.update"))
    far.sign_and_submit("coordinator", "leave.update", ["coordinator", "university", "cleveland", "geneva"])
    far.wait_for_next_rounds(2, "coordinator")
    assert list_ordering(far, "lausanne") == ["cleveland", "coordinator", "geneva", "university"]


def test_no_round_was_lost(far: Far) -> None:
    last = far.find_published("coordinator")
    rounds = far.query("lausanne", "audit", "rounds", "--task", TASK)[:last]
    assert [(row["round"], row["state"], row["accepted"]) for row in rounds] == [
        (number, "published", INSTITUTIONS) for number in range(1, last + 1)
    ]
    assert far.query("geneva", "audit", "verify")["verified"] is True
