"""What ``make bench`` and ``make floods`` make of what they have measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from benchmarks import contenders
from benchmarks.aims import describe_aims, list_aims
from benchmarks.bench import summarise_ledger, summarise_peers, take_median
from benchmarks.contenders import Failed, compute_seconds
from benchmarks.floods import FACTOR, summarise
from benchmarks.growth import list_excess
from benchmarks.growth_page import describe_growth
from benchmarks.meter import Usage
from benchmarks.moving import cut
from benchmarks.performance import describe_moving
from benchmarks.rounds import Sample, make_sample
from benchmarks.sampling import summarise as summarise_samples

from blockfl.protocol.records import CHUNK_BYTES


def sample(seconds: float) -> Sample:
    usage = Usage(
        seconds=4 * seconds,
        cpu_s={"node": 4.0, "agent": 2.0},
        sent_bytes={"node": 400},
        counts={"requests": 40},
    )
    rows = [{"seconds": {"collect": one}} for one in (1.0, 3.0, 2.0)]
    return make_sample(usage, 4, rows, 70.0, {"node": 50.0})


def test_a_sample_is_what_one_round_used() -> None:
    found = sample(2.0)
    assert (found.seconds, found.cpu_seconds, found.cpu_by_process) == (2.0, 1.5, {"agent": 0.5, "node": 1.0})
    assert (found.sent_bytes, found.counts, found.steps) == ({"node": 100.0}, {"requests": 10.0}, {"collect": 2.0})


def test_figures_are_medians_of_the_turns_tables_included() -> None:
    turns = [{10_000: sample(seconds)} for seconds in (1.0, 9.0, 2.0)]
    summary = summarise_ledger(turns)["10000"]
    assert (summary["seconds"], summary["cpu_by_process"]["node"]) == (2.0, 1.0)
    assert take_median([{"a": {"b": 1}}, {"a": {"b": 3, "c": 5}}]) == {"a": {"b": 2, "c": 5}}


def test_a_peer_that_did_not_come_to_an_end_has_no_figures() -> None:
    times = {"fast": {10: [1.0, 3.0, 2.0]}, "broken": {10: [0.1]}}
    assert summarise_peers(times, {"broken": "it ended"}) == {"fast": {"10": {"seconds": 2.0, "turns": 3}}}


def test_rounds_of_others_count_only_when_all_came_to_a_sum() -> None:
    assert compute_seconds([1.0, 2.0, 5.0, 6.5], 4) == 1.5
    with pytest.raises(Failed, match="3 of 4 rounds"):
        compute_seconds([1.0, 2.0, 5.0], 4)


def test_a_flood_is_compared_with_the_quiet_rounds_between() -> None:
    seconds = {
        "reads": [4.0, 9.0, 5.0],
        "quiet after reads": [2.0, 2.0, 3.0],
        "uploads": [3.0],
        "quiet after uploads": [3.0],
    }
    done = {"reads": [(5, 1), (7, 0)], "uploads": [(0, 9)]}
    summary = summarise(("reads", "uploads"), seconds, done, 20.0)
    assert (summary["kinds"]["reads"]["answered"], summary["kinds"]["uploads"]["refused"]) == (12, 9)
    assert {kind: row["factor"] for kind, row in summary["kinds"].items()} == {"reads": 2.5, "uploads": 1.0}
    assert (summary["worst"], summary["factor"]) == (2.5, FACTOR)


def test_the_rate_of_a_round_is_told_beside_the_same_bytes_not_judged() -> None:
    text = describe_moving({"moving": {"10": {"seconds": 1.0}}, "rounds": {"embedded": {"10": {"seconds": 4.0}}}})
    assert "0.25 of it with 10 parameters (1.00 s)" in text
    assert describe_moving({"rounds": {}}) == ""


AUDIT = {"transactions": 1600, "per_second": {"1": 310.0, "2": 590.0}}


def test_the_page_of_growth_holds_what_was_measured_and_for_each_institution() -> None:
    count = {
        "seconds": 8.0,
        "cpu_seconds": 4.0,
        "counts": {"endorsements": 160, "evaluations": 320},
        "for_each": {"endorsements": 10.0, "evaluations": 20.0},
    }
    growth = {"machine": {"processors": 2, "load": 1.0}, "institutions": {"16": count}}
    text = describe_growth(growth)
    assert "| processor-seconds for each | 0.25 |" in text
    assert "| endorsements for each | 10.0 |" in text
    tenth = {"seconds": 1.5, "memory_mb": {"node": 90.0}}
    rounds = {"rounds": 100, "first": tenth, "last": tenth, "audit": AUDIT}
    text = describe_growth(growth | {"rounds": {"10000": rounds}})
    assert "| node | 90 | 90 |" in text
    assert "310 on one processor and 590 on two, of that ledger's 1,600 transactions in a second" in text


def test_a_process_above_the_limit_of_memory_is_named() -> None:
    parameters = {"25000000": {"peak_mb": {"node": 2600.0, "agent": 2400.0}}}
    assert list_excess(parameters) == ["node, 25,000,000 parameters: 2600 MB, at most 2500 MB are allowed"]


def test_bytes_are_cut_into_chunks_as_a_real_upload_is() -> None:
    assert cut(0) == []
    assert cut(CHUNK_BYTES) == [CHUNK_BYTES]
    assert cut(2 * CHUNK_BYTES + 5) == [CHUNK_BYTES, CHUNK_BYTES, 5]


def test_an_aim_that_is_missed_says_by_how_much_and_where_the_time_goes() -> None:
    own = {
        "seconds": 2.0,
        "cpu_seconds": 2.0,
        "cpu_by_process": {"institution a": 1.0, "institution b": 0.5, "node": 0.5},
    }
    summary = {
        "rounds": {"embedded": {"1000000": own}},
        "peers": {"flower SuperLink, TLS": {"1000000": {"seconds": 24.0}}},
        "moving": {"1000000": {"seconds": 1.0}},
    }
    text = describe_aims(summary, {"4": {"endorsements": 60, "evaluations": 81}}, None)
    assert "| embedded node, 1,000,000 parameters, s | at most 1 | 2 | 50% off |" in text
    assert "| embedded node, 1,000,000 parameters, processor-seconds | at most 2.5 | 2 | reached |" in text
    assert "of flower SuperLink, TLS | at most 3 | 2 | reached |" in text
    assert "judges nothing | at least 0.8 | 0.5 | 60% off |" in text
    assert "| endorsements a round, 4 institutions | at most 60 | 60 | reached |" in text
    assert "institution 1.50 s (75%), node 0.50 s (25%)" in text


def test_more_for_each_institution_than_with_four_is_seen() -> None:
    few = {"seconds": 1.0, "for_each": {"endorsements": 10.0, "evaluations": 10.0}}
    many = {"seconds": 11.0, "for_each": {"endorsements": 12.0, "evaluations": 12.1}}
    growth = {"institutions": {"4": few, "50": many}}
    aims = {one.what: one.is_reached for one in list_aims({"rounds": {}, "peers": {}}, {}, growth)}
    assert aims == {
        "endorsements for each of 50 institutions": True,
        "evaluations for each of 50 institutions": False,
        "50 institutions, 10,000 parameters, s": False,
    }


def test_rounds_that_get_slower_and_an_audit_that_is_slow_are_seen() -> None:
    rounds = {"rounds": 100, "first": {"seconds": 1.0}, "last": {"seconds": 1.2}, "audit": AUDIT}
    aims = {one.what: one.is_reached for one in list_aims({"rounds": {}, "peers": {}}, {}, {"rounds": {"10": rounds}})}
    assert aims == {
        "the last tenth of 100 rounds beside the first, s a round": False,
        "audit verify, transactions a second on one processor": True,
        "audit verify, transactions a second on two": False,
    }


@pytest.mark.parametrize("ends", [True, False])
def test_a_contender_that_stays_without_another_round_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(contenders, "TIMEOUT_S", 20.0 if ends else 0.3)
    monkeypatch.setattr(contenders, "_LOOK_S", 0.05)
    (tmp_path / "times.json").write_text("[1.0, 2.0]")
    with subprocess.Popen(["true"] if ends else ["sleep", "60"]) as process:
        try:
            if ends:
                assert contenders._finish(process, 2, tmp_path) == 1.0
            else:
                with pytest.raises(Failed, match="no round within"):
                    contenders._finish(process, 2, tmp_path)
        finally:
            process.kill()


def test_a_sample_counts_for_the_innermost_frame_that_belongs_somewhere() -> None:
    outer = "main (fabric/embedded/__main__.py:33);run (asyncio/runners.py:118)"
    stacks = [
        f"{outer};put (fabric/embedded/storage/store.py:9);dumps (some.py:1) 3",
        f"{outer};_run_once (asyncio/base_events.py:1922) 1",
        f"{outer};verify (fabric/identity/signing.py:7) 4",
        "run (threading.py:9);wait (threading.py:320) 90",
        "elsewhere (some.py:1) 2",
    ]
    found = summarise_samples(stacks)
    assert (found["samples"], found["busy"]) == (100, 10)
    assert found["areas"] == {
        "signatures and certificates": 0.4,
        "storage (SQLite, files, fsync)": 0.3,
        "other": 0.2,
        "gRPC and asyncio": 0.1,
    }
