"""Four rounds under a seeded schedule of faults: none is lost, no invariant is broken, and the evidence verifies."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.run import EVIDENCE, run_chaos
from chaos.schedule import MENU, draw_schedule

ROUNDS, SEED = 4, 1


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_rounds_go_on_while_everything_is_struck(tmp_path: Path, ledger_kind: str) -> None:
    (ledger,) = (one for one in MENU if one == ledger_kind)
    schedule = draw_schedule(rounds=ROUNDS, seed=SEED, ledger=ledger)
    said: list[str] = []
    summary = await run_chaos(schedule, tmp_path, said.append)
    assert (summary["rounds"], summary["lost"], summary["broken"]) == (ROUNDS, 0, []), "\n".join(said)
    # Every fault was carried out, or it is said why not; and the evidence of all rounds is there.
    assert len(summary["schedule"]) == len(schedule.faults)
    assert sum(summary["faults"].values()) + summary["missed"] == len(schedule.faults)
    assert summary["faults"], "nothing was struck"
    assert summary["evidence"]["published"] == ROUNDS
    assert (tmp_path / EVIDENCE).exists()
    assert not (tmp_path / "run").exists()
