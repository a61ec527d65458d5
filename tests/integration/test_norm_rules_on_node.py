"""A task with every norm rule on a real node: each round one institution breaks another rule, and the rounds go on."""

from __future__ import annotations

from pathlib import Path

from support.contract_network import contract_network
from support.strict_task import CODES, StrictTask, make_strict_spec


async def test_each_breach_is_rejected_with_its_code_and_every_round_completes(
    tmp_path: Path, ledger_kind: str
) -> None:
    async with contract_network(tmp_path, ledger_kind) as (told, network):
        task = StrictTask(network, told.consortium, told.signers, told.opening_keys, make_strict_spec())
        await task.prepare()
        verdicts, model = await task.play(1, task.initial_model, {})
        assert {one.state for one in verdicts.values()} == {"accepted"}
        for number, (kind, code) in enumerate(CODES.items(), start=2):
            verdicts, model = await task.play(number, model, {"gamma": kind})
            assert {name: one.code for name, one in verdicts.items()} == {
                "alpha": "",
                "beta": "",
                "delta": "",
                "gamma": code,
            }
            closed = await task.round(number)
            assert (closed.state, closed.rejected) == ("published", ("gamma",))
        assert (await task.progress()).version == 1 + len(CODES)
        bounds = [norms.bound_l2_micro for norms in [(await task.round(number)).norms for number in (1, 5)] if norms]
        assert bounds[1] < bounds[0] / 10
