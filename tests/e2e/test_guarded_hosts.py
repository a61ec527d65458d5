"""Hosts whose ordering nodes have guards, all but one: founded as others are, and rounds run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from examples.hosts.founding import FOUNDERS
from examples.hosts.hosts import Hosts
from examples.hosts.link import Link

from support.far import Far, find_reason

ROUNDS = 2
GUARDED, UNGUARDED, OTHER = ("coordinator", "regulator", "university"), "cleveland", "hungary"
MEMBERS = {name: replace(FOUNDERS[name], guarded=True) for name in GUARDED} | {
    name: FOUNDERS[name] for name in (UNGUARDED, OTHER, "longbeach")
}

REASON = find_reason()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    directory = tmp_path_factory.mktemp("guarded") / "stage"
    with Hosts.make(directory, list(MEMBERS), Link(delay_ms=10), captures=False) as hosts:
        made = Far(hosts, MEMBERS)
        made.begin(ROUNDS)
        yield made


def test_each_host_tells_of_its_own_guard_and_rounds_run(far: Far) -> None:
    far.wait_for_round(ROUNDS, "regulator")
    for name in MEMBERS:
        rows = far.status(name)
        guards = {row: (one["state"], one["error"]) for row, one in rows.items() if row.startswith("guard-")}
        assert guards == ({f"guard-{name}": ("running", "")} if name in GUARDED else {})
        assert [one["error"] for one in rows.values() if one["error"]] == []
        if name in GUARDED:
            assert rows[f"guard-{name}"]["address"] == f"{far.hosts[name].place.domain_name}:17058"
