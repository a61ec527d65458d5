"""Whole rounds of every rule and optimiser: the real contract on the in-memory world against the naive references."""

from __future__ import annotations

import asyncio
import struct
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockfl.aggregator.process import Aggregator, AggregatorSettings
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.audit.records import verify_models, verify_task
from blockfl.institution.agent import AgentSettings, InstitutionAgent
from blockfl.institution.outbox import Outbox
from blockfl.ledger.lineage import obtain_model
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from blockfl.protocol.aggregation import (
    FEDAVG,
    Aggregation,
    FedAvg,
    Krum,
    Median,
    MultiKrum,
    NormClippedMean,
    TrimmedMean,
)
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code
from blockfl.protocol.model import decode_model
from blockfl.protocol.optimiser import Adagrad, Adam, Momentum, Optimiser, Yogi
from blockfl.protocol.records import Aggregate, Consortium, Member, Model, Round
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.version import decode_version
from reference.optimiser import step_naively
from support.contract import refused
from support.federation import COMMITTEE, make_consortium
from support.recorded_world import Recorded, Telling
from support.scenario import TASK, Scenario, make_spec
from support.training import NumpyTraining
from support.world_ledger import WorldHub

SITES = ("alpha", "beta", "delta", "epsilon", "gamma", "omega", "zeta")
RULES: dict[str, Aggregation] = {
    "fedavg": FEDAVG,
    "median": Median(),
    "trimmed mean": TrimmedMean(trim=2),
    "krum": Krum(byzantine=2),
    "multi-krum": MultiKrum(byzantine=1, selected=3),
    "norm-clipped mean": NormClippedMean(clip_l2_micro=0),
    "mean clipped to a norm": NormClippedMean(clip_l2_micro=2_000),
}
OPTIMISERS: dict[str, Optimiser | None] = {
    "none": None,
    "momentum": Momentum(learning_rate_micro=1_000_000, beta_micro=900_000),
    "adam": Adam(learning_rate_micro=10_000, beta1_micro=900_000, beta2_micro=990_000, tau_micro=1_000),
    "yogi": Yogi(learning_rate_micro=10_000, beta1_micro=900_000, beta2_micro=990_000, tau_micro=1_000),
    "adagrad": Adagrad(learning_rate_micro=100_000, beta1_micro=0, tau_micro=1_000),
}
EACH = [(rule, optimiser) for rule, optimiser in zip(RULES, cycle(OPTIMISERS), strict=False)]
EACH += [("median", optimiser) for optimiser in OPTIMISERS]


def make_world() -> Recorded:
    """Return a world whose consortium has seven institutions."""
    consortium = make_consortium()
    more = tuple(
        Member(organisation=one, roles=("institution",)) for one in SITES if one not in consortium.having("institution")
    )
    members = tuple(sorted(consortium.members + more, key=lambda member: member.organisation))
    world = Recorded(Consortium.model_validate(consortium.model_dump() | {"members": members}))
    world.now_ms = time.time_ns() // 1_000_000
    return world


class Federation:
    """A task of seven institutions in a world."""

    def __init__(self, rule: Aggregation, optimiser: Optimiser | None = None, rounds: int = 12) -> None:
        self.world = make_world()
        self.hub = WorldHub(self.world)
        spec = make_spec(
            institutions=SITES,
            minimum_accepted=7,
            rounds=rounds,
            check="recompute",
            aggregation=rule,
            optimiser=optimiser,
        )
        self.scenario = Scenario(self.hub, self.world.consortium, self.world.signers, self.world.opening_keys, spec)

    @property
    def spec(self) -> TaskSpec:
        return self.scenario.spec

    async def close_round(self, number: int = 1) -> Round:
        if number == 1:
            await self.scenario.prepare()
        await self.scenario.open(number)
        await self.scenario.contribute(number=number)
        return await self.scenario.close(number)

    def history(self) -> History:
        """The records as an auditor finds them."""
        return Telling(self.world).history()


def step(spec: TaskSpec, vectors: dict[str, tuple[float, ...]], x: list[int], round_: Round) -> dict[str, Any]:
    """Return the next version's vectors, element by element."""
    parameters: dict[str, Any] = {"method": "momentum", "learning_rate_micro": 10**6, "beta_micro": 0}
    if spec.optimiser:
        parameters = spec.optimiser.model_dump(mode="json")
    rows = [dict(zip(vectors, row, strict=True)) for row in zip(*vectors.values(), strict=True)]
    after = [step_naively(parameters, row, one, round_.scale, round_.divisor) for row, one in zip(rows, x, strict=True)]
    kept = ("model", *(spec.optimiser.state if spec.optimiser else ()))
    return {name: tuple(row[name] for row in after) for name in kept}


@pytest.mark.parametrize(("rule", "optimiser"), EACH)
async def test_three_rounds_give_the_naive_references_models_to_everybody(
    rule: str, optimiser: str, tmp_path: Path
) -> None:
    """X is the naive reference's, attested by three services; an institution and the audit arrive at the model."""
    federation = Federation(RULES[rule], OPTIMISERS[optimiser])
    scenario, spec = federation.scenario, federation.spec
    content = scenario.initial_model
    vectors: dict[str, Any] = {"model": tuple(decode_model(spec.manifest, content).tolist())}
    for number in (1, 2, 3):
        round_ = await federation.close_round(number)
        weights = sum(part.weight for part in round_.participants)
        assert round_.divisor == spec.aggregation.traits.divisor(weights)
        await scenario.attest(number)
        content = await scenario.publish(number, content)
        x = list(struct.unpack("<10i", await scenario.total(number)))
        vectors = step(spec, vectors, x, round_)
        version = decode_version(spec, content)
        assert {
            "model": tuple(version.model.tolist()),
            **{k: tuple(v.tolist()) for k, v in version.state.items()},
        } == vectors

    alpha, task = federation.hub.ledger("alpha"), await scenario.read_task()
    assert await obtain_model(alpha, ModelStore(tmp_path), task, 3) == content
    history = federation.history()
    assert verify_task(history, task).versions == 4
    assert await verify_models(federation.hub.ledger("regulator"), history, task) == compute_digest(content)


@pytest.mark.parametrize("rule", [one for one in RULES if one != "fedavg"])
async def test_nothing_but_what_the_rule_gives_is_attested(rule: str) -> None:
    federation = Federation(RULES[rule])
    scenario, world = federation.scenario, federation.world
    round_ = await federation.close_round()
    right = await scenario.total()
    plain = (await scenario.sum(1, round_.accepted)).encode()
    off = (np.frombuffer(right, dtype="<i4") + np.eye(1, 10, 9, dtype=np.int32)[0]).astype("<i4").tobytes()
    for wrong in (plain, off, right + bytes(4)):
        assert wrong != right
        blob = await scenario.upload_sum("coordinator", wrong)
        for member in COMMITTEE:
            with refused(Code.SUM_MISMATCH, compute_digest(right)):
                await world.simulate(member, "coordinator", "AttestAggregate", TASK, "1", blob.encode())
    await scenario.attest()


@pytest.mark.parametrize("rule", RULES)
async def test_weights_count_for_the_weighted_mean_only(rule: str) -> None:
    federation = Federation(RULES[rule])
    round_ = await federation.close_round()
    weights = {part.weight for part in round_.participants}
    assert (len(weights) > 1) == isinstance(RULES[rule], FedAvg)


@pytest.mark.parametrize("rule", ["krum", "trimmed mean"])
async def test_with_too_few_accepted_for_the_rule_the_round_fails_and_the_next_opens(rule: str) -> None:
    federation = Federation(RULES[rule])
    scenario, world = federation.scenario, federation.world
    await scenario.prepare()
    await scenario.open()
    await scenario.contribute(*SITES[:-1])
    world.now_ms = (await scenario.round()).judge_deadline_ms
    failed = await scenario.close()
    assert (failed.state, len(failed.accepted)) == ("failed", 6)
    with refused(Code.TOO_FEW_ACCEPTED):
        await world.submit("coordinator", "AttestAggregate", TASK, "1", split_blob(bytes(40))[0].encode())
    assert (await federation.close_round(2)).state == "closed"


@pytest.mark.parametrize(
    ("kind", "key", "changes"),
    [
        (Round, catalogue.ROUND.key(TASK, 1), {"divisor": 7}),
        (Aggregate, catalogue.AGGREGATE.key(TASK, 1), {"divisor": 7}),
        (Model, catalogue.MODEL.key(TASK, 1), {"divisor": 7}),
    ],
)
async def test_the_audit_knows_what_a_rule_divides_by(kind: Any, key: str, changes: dict[str, int]) -> None:
    federation = Federation(Median())
    await federation.close_round()
    await federation.scenario.attest()
    await federation.scenario.publish(1, federation.scenario.initial_model)
    task = await federation.scenario.read_task()
    verify_task(federation.history(), task)
    data = federation.world.get(key)
    assert data is not None
    federation.world.force("", key, kind.decode(data).model_copy(update=changes).encode())
    with pytest.raises(VerificationError, match="divisor"):
        verify_task(federation.history(), task)


async def test_the_processes_of_committee_and_institutions_run_a_robust_rule_with_an_optimiser(tmp_path: Path) -> None:
    """Agents and aggregators, nothing scripted: every institution reports the digest that was published."""
    federation = Federation(TrimmedMean(trim=2), OPTIMISERS["yogi"], rounds=2)
    hub, scenario = federation.hub, federation.scenario
    await scenario.register()
    await scenario.create()
    settings = AggregatorSettings(judge_patience_s=0.02, takeover_s=60, enrolment_patience_s=30, until_complete=True)
    trainings = {
        one: NumpyTraining(federation.spec.manifest, samples=100 + 50 * number, seed=number)
        for number, one in enumerate(SITES)
    }
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for name in COMMITTEE:
            store = ModelStore(tmp_path / name)
            key = federation.world.opening_keys[name]
            group.create_task(Aggregator(hub.ledger(name), key, store, settings, lambda _: None).run())
        for name, training in trainings.items():
            store, outbox = ModelStore(tmp_path / name / "models"), Outbox(tmp_path / name / "outbox")
            agent = InstitutionAgent(
                hub.ledger(name), training, store, outbox, AgentSettings(task=TASK, seed=7), report=lambda _: None
            )
            group.create_task(agent.run())
    published = await scenario.model(2)
    assert (published.accepted, published.divisor) == (SITES, 3)
    reports = await hub.ledger("alpha").read_all(catalogue.REPORTS.below(TASK, 2))
    assert {one.organisation: one.model_digest for one in reports} == dict.fromkeys(SITES, published.digest)
    content = ModelStore(tmp_path / "omega" / "models").fetch(published.digest)
    assert content is not None
    assert set(decode_version(federation.spec, content).state) == {"momentum", "variance"}
