"""An ordering node that has work and makes no progress begins anew; one that has none, or makes progress, does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest

from blockfl.network.keeper import Keeper
from blockfl.network.process import ProcessSpec, ProcessTable
from blockfl.network.stall import (
    BEHIND_S,
    CONTAINER_CHECK,
    NOTED_S,
    STALLED_S,
    TOGETHER_S,
    OrderingState,
    StallWatch,
    read_ordering_state,
)

STEP_S = 5.0
ORDERER = """# HELP consensus_BFT_committed_block_number The number of the latest committed block.
# TYPE consensus_BFT_committed_block_number gauge
consensus_BFT_committed_block_number{channel="federation"} 138
# HELP consensus_smartbft_pool_count_of_elements Number of elements in the consensus request pool.
# TYPE consensus_smartbft_pool_count_of_elements gauge
consensus_smartbft_pool_count_of_elements{channel="federation"} 2
# HELP consensus_smartbft_view_number The View number value.
# TYPE consensus_smartbft_view_number gauge
consensus_smartbft_view_number{channel="federation"} 4
"""
PEER = """# HELP ledger_blockchain_height Height of the chain in blocks.
# TYPE ledger_blockchain_height gauge
ledger_blockchain_height{channel="federation"} 141
"""


def state(newest: int = 7, waiting: int = 0, known: int = 0, view: int = 0) -> OrderingState:
    return OrderingState(newest=newest, waiting=waiting, known=known, view=view)


def find_restarts(
    watch: StallWatch, states: Iterator[OrderingState | None], until_s: float, clock_s: float = 1_000_000
) -> list[float]:
    """When a watch that looks every few seconds has its node begin anew."""
    times = [STEP_S * step for step in range(int(until_s / STEP_S))]
    return [now for now, seen in zip(times, states, strict=False) if watch.look(now, clock_s + now, seen) is not None]


def always(seen: OrderingState | None) -> Iterator[OrderingState | None]:
    while True:
        yield seen


def test_nodes_with_requests_and_no_new_block_begin_anew_together() -> None:
    """Each one counts on a clock of its own; one that begins anew alone may forget the view that the rest is in."""
    begun = [
        [shift + now for now in find_restarts(StallWatch(), always(state(waiting=1)), 1_000, 1e6 + shift)]
        for shift in (0, 7, 31)
    ]
    assert all(len(times) >= 4 for times in begun), begun
    for together in zip(*begun, strict=False):
        assert max(together) - min(together) <= STEP_S, begun
    for times in begun:
        assert STALLED_S <= times[0] <= STALLED_S + TOGETHER_S + STEP_S
        assert all(later - earlier >= STALLED_S for earlier, later in pairwise(times))


def test_a_new_view_is_progress_and_an_old_one_is_none() -> None:
    """Nodes that change their leader by themselves are left alone, and those that fall back again and again are not."""
    agreeing = (state(waiting=1, view=number // 20) for number in range(10_000))
    assert find_restarts(StallWatch(), agreeing, 10 * TOGETHER_S) == []
    falling = (state(waiting=1, view=number % 2) for number in range(10_000))
    assert find_restarts(StallWatch(), falling, 3 * TOGETHER_S)


def test_a_node_far_behind_its_peer_begins_anew_alone_though_nobody_asks_it_anything() -> None:
    first, *_ = find_restarts(StallWatch(), always(state(newest=105, known=344)), STALLED_S)
    assert first == BEHIND_S
    assert find_restarts(StallWatch(), always(state(newest=340, known=344)), 3 * STALLED_S) == []


@pytest.mark.parametrize("seen", [state(), state(known=7), None], ids=["idle", "level", "silent"])
def test_a_node_without_work_or_without_a_word_is_left_alone(seen: OrderingState | None) -> None:
    assert find_restarts(StallWatch(), always(seen), 20 * STALLED_S) == []


def test_a_node_that_makes_blocks_is_left_alone_however_many_requests_wait() -> None:
    growing = (state(newest=number // 6, waiting=900) for number in range(10_000))
    assert find_restarts(StallWatch(), growing, 20 * STALLED_S) == []


def test_the_time_begins_when_there_is_work_not_with_the_last_block() -> None:
    watch = StallWatch()
    idle = find_restarts(watch, always(state()), 10 * STALLED_S)
    assert idle == []
    assert watch.look(10 * STALLED_S, 1e6 + 10 * STALLED_S, state(waiting=1)) is None


@pytest.fixture
def operations() -> Iterator[dict[str, str]]:
    """What a node answers on its operations address, by path; the address is under ``address``."""
    said: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in said else 404)
            self.end_headers()
            self.wfile.write(said.get(self.path, "").encode())

        def log_message(self, format: str, *arguments: object) -> None:
            del format, arguments

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    said["address"] = f"127.0.0.1:{server.server_port}"
    yield said
    server.shutdown()
    server.server_close()


def test_a_state_is_read_from_what_nodes_tell(operations: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    operations["/metrics"] = ORDERER + PEER
    address = operations["address"]
    assert read_ordering_state(address, address) == state(newest=138, waiting=2, known=140, view=4)
    assert read_ordering_state(address, None) == state(newest=138, waiting=2, view=4)
    operations["/metrics"] = ORDERER.replace("BFT", "etcdraft").replace("smartbft", "other")
    assert read_ordering_state(address, None) == state(newest=138)


@pytest.mark.parametrize("text", ["", "consensus_BFT", '{"a": 1}', "\0\n{}{} 1"])
def test_a_node_that_tells_nothing_of_use_has_no_state(operations: dict[str, str], text: str) -> None:
    operations["/metrics"] = text
    assert read_ordering_state(operations["address"], None) is None


def test_a_node_that_does_not_answer_has_no_state() -> None:
    assert read_ordering_state("127.0.0.1:1", None) is None


def test_the_keeper_ends_a_node_that_stands_still_and_starts_it_again(tmp_path: Path) -> None:
    processes = ProcessTable(tmp_path)
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    variables = {"orderer-alpha": "ORDERER", "peer-alpha": "CORE"}
    asked: list[tuple[str, str | None]] = []

    def read(orderer: str, peer: str | None) -> OrderingState:
        asked.append((orderer, peer))
        return state(waiting=3)

    try:
        for number, (name, prefix) in enumerate(variables.items()):
            environment = {f"{prefix}_OPERATIONS_LISTENADDRESS": f"127.0.0.1:{number + 1}"}
            processes.start(ProcessSpec(name=name, command=sleeper, environment=environment))
        before = {name: processes.find(name) for name in variables}
        now, ended, notes = 0.0, [], {}
        processes.take_note("orderer-alpha", "of a keeper that was here before")
        keeper = Keeper(processes, read, lambda: 1e6 + now)
        while now < STALLED_S + TOGETHER_S + STEP_S:
            ended += [now] if keeper.look_at_ordering(now) else []
            notes[now] = processes.read_note("orderer-alpha")
            now += STEP_S
        assert [at for at, note in notes.items() if not note] == [*range(0, int(NOTED_S), int(STEP_S))]
        assert "no progress for 30 s: 3 requests wait" in notes[NOTED_S]
        assert len(ended) == 1
        assert ended[0] >= STALLED_S
        assert set(asked) == {("127.0.0.1:1", "127.0.0.1:2")}
        assert processes.state("orderer-alpha") == "crashed", "the next look starts it again"
        assert keeper.look(1000.0) == ["orderer-alpha"]
        assert processes.find("peer-alpha") == before["peer-alpha"]
        assert processes.find("orderer-alpha") not in (None, before["orderer-alpha"])
    finally:
        processes.stop(processes.names(), timeout_s=1)


def test_a_node_that_was_stopped_is_not_asked(tmp_path: Path) -> None:
    processes = ProcessTable(tmp_path)
    environment = {"ORDERER_OPERATIONS_LISTENADDRESS": "127.0.0.1:1"}
    processes.start(ProcessSpec(name="orderer-alpha", command=[sys.executable, "-c", ""], environment=environment))
    processes.stop(["orderer-alpha"])
    asked: list[str] = []
    keeper = Keeper(processes, lambda orderer, _: asked.append(orderer))
    assert keeper.look_at_ordering(0.0) == []
    assert asked == []


def run_container_check(said: dict[str, str], file: Path) -> subprocess.CompletedProcess[str]:
    """Run a container's health check, with a word in place of the end of its first process."""
    script = f'kill() {{ echo "kill $*"; }}\n{CONTAINER_CHECK}'
    environment = {**os.environ, "ORDERER_OPERATIONS_LISTENADDRESS": said["address"], "STALL_FILE": str(file)}
    return subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=30
    )


def test_a_container_whose_ordering_node_stands_still_ends_for_its_engine_to_start_it_again(
    operations: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "stall"
    operations |= {"/healthz": '{"status":"OK"}', "/metrics": ORDERER}
    assert run_container_check(operations, file).stdout == ""
    since, looked, newest = file.read_text().splitlines()
    assert since == looked
    assert run_container_check(operations, file).stdout == "", "the time is not over"
    earlier = int(since) - 2 * int(TOGETHER_S)
    file.write_text(f"{earlier}\n{since}\n{newest}\n")
    if int(since) // int(TOGETHER_S) == int(time.time() + 5) // int(TOGETHER_S):
        assert run_container_check(operations, file).stdout == "", "not before the time that all know"
    file.write_text(f"{earlier}\n{earlier}\n{newest}\n")
    ended = run_container_check(operations, file)
    assert (ended.returncode, ended.stdout) == (0, "kill -TERM 1\n")
    assert "requests wait, and no block has come" in ended.stderr
    assert not file.exists(), "it is begun anew with no past"


@pytest.mark.parametrize(
    "metrics",
    [ORDERER.replace("} 138", "} 139"), ORDERER.replace("} 4", "} 5"), ORDERER.replace("} 2", "} 0"), PEER],
    ids=["block", "view", "idle", "raft"],
)
def test_a_container_whose_ordering_node_works_goes_on(
    operations: dict[str, str], tmp_path: Path, metrics: str
) -> None:
    file = tmp_path / "stall"
    operations |= {"/healthz": '{"status":"OK"}', "/metrics": metrics}
    before = [line for line in ORDERER.splitlines() if line.startswith(("consensus_BFT", "consensus_smartbft_view"))]
    file.write_text(f"1\n1\n{' '.join(before)}\n")
    checked = run_container_check(operations, file)
    assert (checked.returncode, checked.stdout) == (0, "")
    assert int(file.read_text().split()[0]) > 1, "the time begins anew"


def test_a_container_whose_ordering_node_is_not_well_is_unhealthy(operations: dict[str, str], tmp_path: Path) -> None:
    assert run_container_check(operations, tmp_path / "stall").returncode == 1
