"""What the benchmarks read of processes, sockets and the node, and when a round has become dearer."""

from __future__ import annotations

import json

import pytest
from benchmarks.counts import RECORDED, TOLERANCE, find_excess, find_least, find_middle
from benchmarks.meter import COUNTED, Reading, compute_usage, parse_counts, parse_sockets

SOCKETS = """\
ESTAB 0 0 127.0.0.1:34204 127.0.0.1:24340 users:(("python",pid=18863,fd=30)) bbr rto:216 bytes_sent:1000 bytes_retrans:264 bytes_acked:737 bytes_received:90
ESTAB 0 12 [::1]:46163 [::1]:47296 users:(("python",pid=7,fd=15)) cubic rto:216 bytes_sent:25 bytes_received:9
ESTAB 0 0 127.0.0.1:1 127.0.0.1:2 users:(("python",pid=7,fd=16)) cubic rto:200
TIME-WAIT 0 0 127.0.0.1:5 127.0.0.1:6
"""  # noqa: E501 - as ss prints it
METRICS = """\
# TYPE blockfl_transactions_total counter
blockfl_transactions_total{code="VALID"} 5.0
blockfl_transactions_total{code="MVCC_READ_CONFLICT"} 2.0
# TYPE blockfl_endorsements_total counter
blockfl_endorsements_total{organisation="alpha"} 3.0
blockfl_endorsements_total{organisation="beta"} 4.0
# TYPE blockfl_ledger_height gauge
blockfl_ledger_height{channel="c"} 9.0
"""


def test_bytes_of_sockets_are_what_was_sent_once() -> None:
    assert parse_sockets(SOCKETS) == {
        ("127.0.0.1:34204", "127.0.0.1:24340", 18863): 736,
        ("[::1]:46163", "[::1]:47296", 7): 25,
        ("127.0.0.1:1", "127.0.0.1:2", 7): 0,
    }


def test_the_node_s_counters_are_added_up_over_its_endpoints() -> None:
    counts = parse_counts(METRICS)
    assert {name: counts[name] for name in ("transactions", "invalid", "endorsements")} == {
        "transactions": 7,
        "invalid": 2,
        "endorsements": 7,
    }
    assert set(counts) == {*COUNTED, "invalid"}


def test_the_least_round_is_compared_and_the_middle_one_recorded() -> None:
    rounds = [{"reads": 40, "syncs": 9}, {"reads": 39, "syncs": 5}, {"reads": 31, "syncs": 7}]
    assert find_least(rounds) == {"reads": 31, "syncs": 5}
    assert find_middle(rounds) == {"reads": 39, "syncs": 7}
    assert find_middle(rounds[:2]) == {"reads": 39, "syncs": 5}


def test_usage_is_what_came_between_two_readings() -> None:
    old, new = ("a", "b", 1), ("c", "d", 2)
    names = {1: "node", 2: "agent"}
    before = Reading(at_s=1.0, cpu_s={"node": 2.0}, sent={old: 10}, names=names, counts={"syncs": 4})
    after = Reading(
        at_s=3.5, cpu_s={"node": 3.0, "agent": 1.0}, sent={old: 30, new: 5}, names=names, counts={"syncs": 9}
    )
    usage = compute_usage(before, after)
    assert (usage.seconds, usage.cpu_s, usage.sent_bytes, usage.counts) == (
        2.5,
        {"node": 1.0, "agent": 1.0},
        {"node": 20, "agent": 5},
        {"syncs": 5},
    )


def test_the_least_of_all_rounds_counts() -> None:
    assert find_least([{"syncs": 7, "requests": 3}, {"syncs": 5, "requests": 4}]) == {"syncs": 5, "requests": 3}


@pytest.mark.parametrize(
    ("counted", "is_more"), [(100, False), (int(100 * (1 + TOLERANCE)), False), (int(100 * (1 + TOLERANCE)) + 1, True)]
)
def test_a_count_above_its_tolerance_is_too_much(counted: int, is_more: bool) -> None:
    assert bool(find_excess({"requests": counted}, {"requests": 100})) is is_more


def test_every_count_of_the_node_is_recorded() -> None:
    for recorded in json.loads(RECORDED.read_bytes()).values():
        assert set(recorded) == {*COUNTED, "invalid"}
