"""Seven hosts on Fabric that change under a running task: who is in it, certificates, a lost disk; no round is lost."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from examples.hosts.founding import Founder, blockfl
from examples.hosts.hosts import Hosts
from examples.hosts.link import Link

from support.far import TASK, Far, find_reason
from support.other_installation import install_other, run_other

ROUNDS = 1000
ABSENT_S = 300
LEAST_ROUNDS = 20
FOUNDERS = {
    "coordinator": Founder(roles=["committee", "coordinator"], orders=True),
    # A round needs three updates: of four institutions one may be gone.
    "regulator": Founder(roles=["committee", "institution"], orders=True),
    "university": Founder(roles=["committee", "institution"], orders=True),
    "cleveland": Founder(roles=["institution"], orders=True),
    "hungary": Founder(roles=["institution"]),
}
NEWCOMERS = {
    "geneva": Founder(roles=["committee"], orders=True),
    "lausanne": Founder(roles=["institution"]),
}
LEFT = [name for name in (*FOUNDERS, *NEWCOMERS) if name != "regulator"]
REASON = find_reason()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or ""), pytest.mark.timeout(5000)]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    directory = tmp_path_factory.mktemp("changing") / "stage"
    hosts = Hosts.make(directory, [*FOUNDERS, *NEWCOMERS], Link(delay_ms=40, jitter_ms=5, loss=0.001), captures=False)
    with hosts as made:
        # Training that takes its time leaves the machine to the commands between the rounds.
        far = Far(made, FOUNDERS, training_s=8)
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
    # The one without an ordering node begins with a snapshot instead of every block since the first.
    far.network("coordinator", "snapshot", far.path("coordinator", "lausanne.snapshot"))
    far.hand_over("coordinator", "lausanne.snapshot", "lausanne")
    far.agree(
        "joined.json",
        list(FOUNDERS),
        {"geneva": [], "lausanne": ["--snapshot", far.path("lausanne", "lausanne.snapshot")]},
    )
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


def test_a_host_whose_disk_is_lost_comes_back_from_its_backup_with_its_ordering_node(far: Far) -> None:
    part, kept = far.consortium.part("cleveland"), far.path("cleveland", "kept.backup")
    far.network("cleveland", "backup", kept)
    far.hosts.power_off("cleveland")
    shutil.rmtree(part)
    far.hosts.power_on("cleveland")
    far.network("cleveland", "restore", kept)
    with ThreadPoolExecutor() as pool:
        coming = pool.submit(far.bring_up, "cleveland")
        # What it had approved was at its peer alone: a majority approves the same once more.
        far.wait_for_error("coordinator", "contract", "cleveland cannot run the contract")
        far.consortium.each(["coordinator", "regulator", "university"], far.bring_up)
        coming.result()
    # The others' peers run the contract again when they have approved it, too, and their status says so.
    for name in ("hungary", "geneva", "lausanne"):
        far.wait_for_error(name, "contract", "has not approved it")
        far.bring_up(name)
    far.start_agent("cleveland")
    far.wait_for_next_rounds(2, "coordinator")
    far.wait_until(lambda: {row["error"] for row in far.status("cleveland").values()} == {""})


def test_a_host_that_is_gone_for_five_minutes_comes_back_with_what_its_unit_says(far: Far) -> None:
    before = far.find_published("coordinator")
    far.hosts.power_off("university")
    ends = time.monotonic() + ABSENT_S
    far.wait_until(lambda: time.monotonic() > ends, 2 * ABSENT_S)
    far.hosts.power_on("university")
    far.bring_up("university")
    far.start_aggregator("university")
    far.start_agent("university")
    far.wait_until(lambda: {row["error"] for row in far.status("university").values()} == {""})
    far.wait_for_next_rounds(2, "university")
    assert far.find_published("coordinator") > before


def test_an_organisation_leaves_with_its_ordering_node(far: Far) -> None:
    make_terms(far, "left.json", "--remove", "regulator", "--threshold", "2")
    far.hand_over("coordinator", "left.json", *LEFT)
    far.agree("left.json", LEFT)
    far.admin("coordinator", "config", "remove", "regulator", "--output", far.path("coordinator", "leave.update"))
    far.sign_and_submit("coordinator", "leave.update", ["coordinator", "university", "cleveland", "geneva"])
    far.wait_for_next_rounds(2, "coordinator")
    assert list_ordering(far, "lausanne") == ["cleveland", "coordinator", "geneva", "university"]


def test_an_institution_comes_into_the_committee(far: Far) -> None:
    make_terms(far, "roles.json", "--member", "hungary=committee,institution", "--threshold", "3")
    far.hand_over("coordinator", "roles.json", *LEFT)
    far.agree("roles.json", LEFT)
    far.start_aggregator("hungary")
    far.wait_for_next_rounds(2, "coordinator")
    far.wait_until(lambda: "registered the opening key" in far.log("hungary", "aggregator").read_text())


def test_the_contract_is_upgraded_host_by_host(far: Far) -> None:
    python = install_other(far.hosts.directory / "release", "another release")
    name = run_other(python, "--version").stdout.partition("contract ")[2].partition(" ")[0]

    def upgrade(host: str) -> None:
        command = [str(python), "-m", "blockfl.cli.main", "network", "up", "--upgrade", name]
        far.hosts[host].run([*command, "-d", str(far.consortium.part(host))])

    with ThreadPoolExecutor(len(LEFT)) as pool:
        first = pool.submit(upgrade, LEFT[0])
        far.wait_for_next_rounds(1, "coordinator")
        assert not first.done(), "one alone brings nothing into force"
        list(pool.map(upgrade, LEFT[1:]))
        first.result()
    assert {far.status(host)[f"contract-{host}"]["runs"] for host in LEFT} == {name}
    far.wait_for_next_rounds(2, "coordinator")


def test_no_round_was_lost(far: Far) -> None:
    last = far.find_published("coordinator")
    assert last >= LEAST_ROUNDS
    # Not of lausanne: its peer began with a snapshot, and has no block from before.
    rounds = far.query("geneva", "audit", "rounds", "--task", TASK)[:last]
    assert [(row["round"], row["state"]) for row in rounds] == [(number, "published") for number in range(1, last + 1)]
    assert all("hungary" in row["accepted"] for row in rounds), "its host was always there"
    assert far.query("geneva", "audit", "verify")["verified"] is True
