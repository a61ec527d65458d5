"""Seven hosts, 80 ms there and back, on Fabric: founded from public files, through cuts, with no key astray."""

import json
import sys
from collections.abc import Iterator

import pytest
from examples.hosts.founding import FOUNDERS
from examples.hosts.hosts import CAPTURE, Hosts
from examples.hosts.link import Link
from examples.hosts.secrecy import Secret, find_strays, read_files, read_secrets
from examples.hosts.wire import read_streams

from support.far import DIMENSION, TASK, Far, find_reason

ROUNDS = 20
COMMITTEE = ("coordinator", "regulator", "university")
INSTITUTIONS = ("cleveland", "hungary", "longbeach", "switzerland")
KEYS_EACH = 8


REASON = find_reason()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    directory = tmp_path_factory.mktemp("far") / "stage"
    with Hosts.make(directory, list(FOUNDERS), Link(delay_ms=40, jitter_ms=5, loss=0.001)) as hosts:
        made = Far(hosts)
        made.begin(ROUNDS)
        yield made


def test_rounds_go_on_while_a_host_is_gone_and_it_comes_back_by_itself(far: Far) -> None:
    far.wait_for_round(2, "university")
    began = far.find_published("university")
    with far.hosts.cut_off("regulator"):
        far.wait_for_round(began + 4, "university")
    assert far.find_published("regulator") < began + 4
    far.wait_for_round(far.find_published("university") + 1, "regulator")


def test_a_host_whose_power_fails_takes_part_again_when_its_part_is_brought_up(far: Far) -> None:
    far.hosts.power_off("university")
    far.wait_for_round(far.find_published("regulator") + 3, "regulator")
    far.hosts.power_on("university")
    far.consortium.bring_part_up("university")
    far.start_aggregator("university")
    assert far.find_published("regulator") < ROUNDS, "the task must go on while the host comes back"
    far.wait_for_round(far.find_published("regulator") + 1, "university")


def test_no_round_was_lost_and_all_institutions_hold_one_model(far: Far) -> None:
    far.wait_for_round(ROUNDS, "coordinator")
    rounds = far.query("hungary", "audit", "rounds", "--task", TASK)
    assert [(row["round"], row["state"], row["accepted"]) for row in rounds] == [
        (number, "published", list(INSTITUTIONS)) for number in range(1, ROUNDS + 1)
    ]
    audit = far.query("longbeach", "audit", "verify")
    assert audit["verified"] is True
    heights = {name: far.status(name)[f"peer-{name}"]["height"] for name in FOUNDERS}
    assert len(set(heights.values())) == 1, heights
    assert heights["regulator"] >= audit["blocks"]


def test_each_user_reads_what_is_its_own_and_nobody_elses(far: Far) -> None:
    directory = far.hosts.directory
    for host in far.hosts.values():
        seen = json.loads(host.run([sys.executable, "-m", "examples.hosts.look", str(directory)]))
        others = tuple(f"{other.directory}/" for other in far.hosts.values() if other is not host)
        assert f"{host.directory}/part/authority/signing-key.pem" in seen["files"]
        assert [path for path in seen["files"] if path.startswith(others)] == []
        assert str(directory / CAPTURE) not in seen["files"]


def test_no_private_key_was_ever_with_another_host_or_on_the_wire(far: Far) -> None:
    far.hosts.count()
    secrets: dict[str, list[Secret]] = {name: read_secrets(host.directory) for name, host in far.hosts.items()}
    assert {name: len(keys) >= KEYS_EACH for name, keys in secrets.items()} == dict.fromkeys(FOUNDERS, True)
    every = [key.scalar for keys in secrets.values() for key in keys]
    assert len(set(every)) == len(every), "a key that two hosts have was given away"
    assert {name for name, keys in secrets.items() if any(key.path.name == "opening-key" for key in keys)} == set(
        COMMITTEE
    )
    places = {
        name: ((str(path), content) for path, content in read_files(host.directory)) for name, host in far.hosts.items()
    }
    handed = [(path.name, content) for path, content in read_files(far.hosts.directory / "handed")]
    assert len(handed) == 2 * (len(FOUNDERS) - 1) + 1 + len(FOUNDERS) * (len(FOUNDERS) - 1)
    wire = [("the wire", stream) for stream in read_streams(far.hosts.directory / CAPTURE)]
    assert sum(len(stream) for _, stream in wire) > ROUNDS * len(INSTITUTIONS) * 2 * DIMENSION
    logs = [(path.name, content) for path, content in read_files(far.hosts.directory / "logs")]
    assert find_strays(secrets, {**places, "nobody": [*handed, *wire, *logs]}) == []
