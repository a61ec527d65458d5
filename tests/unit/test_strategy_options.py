"""Choosing a rule and an optimiser on the command line, what the audit then says, and a model taken out again."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from blockfl.audit.views import describe_strategy, list_tasks
from blockfl.cli import export
from blockfl.cli import task as commands
from blockfl.cli.main import main
from blockfl.cli.strategy import parse_optimiser, parse_rule
from blockfl.cli.terms import OPTIONS, parse_terms
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol.aggregation import FEDAVG, Aggregation, Krum, Median, MultiKrum, NormClippedMean, TrimmedMean
from blockfl.protocol.codes import Code
from blockfl.protocol.model import unflatten
from blockfl.protocol.optimiser import Adagrad, Adam, Momentum, Optimiser, Yogi
from blockfl.protocol.payload import ENCODINGS
from blockfl.protocol.version import decode_version
from support.contract import refused
from support.federation import INSTITUTIONS
from support.scenario import TASK, Scenario, make_spec
from support.world import World
from support.world_ledger import WorldHub

ADAM: dict[str, Any] = {
    "learning_rate_micro": 10_000,
    "beta1_micro": 900_000,
    "beta2_micro": 990_000,
    "tau_micro": 1_000,
}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("fedavg", FEDAVG),
        ("median", Median()),
        ("trimmed_mean", TrimmedMean(trim=5)),
        ("trimmed_mean:trim=4", TrimmedMean(trim=4)),
        ("krum", Krum(byzantine=4)),
        ("krum:byzantine=0", Krum(byzantine=0)),
        ("multi_krum", MultiKrum(byzantine=4, selected=5)),
        ("multi_krum:byzantine=2", MultiKrum(byzantine=2, selected=7)),
        ("multi_krum:selected=8", MultiKrum(byzantine=1, selected=8)),
        ("multi_krum:selected=3,byzantine=1", MultiKrum(byzantine=1, selected=3)),
        ("norm_clipped_mean", NormClippedMean(clip_l2_micro=0)),
        ("norm_clipped_mean:clip_l2=1.5", NormClippedMean(clip_l2_micro=1_500_000)),
    ],
)
def test_a_rule_is_named_with_its_parameters_or_with_the_most_that_eleven_updates_allow(
    text: str, rule: Aggregation
) -> None:
    assert parse_rule(text, 11) == rule


@pytest.mark.parametrize("minimum", range(3, 14))
@pytest.mark.parametrize("name", ["fedavg", "median", "trimmed_mean", "krum", "norm_clipped_mean"])
def test_a_rule_without_parameters_is_defined_for_the_fewest_updates(name: str, minimum: int) -> None:
    assert parse_rule(name, minimum).traits.least_updates <= minimum
    if minimum >= 5:
        assert parse_rule("multi_krum", minimum).traits.least_updates <= minimum


@pytest.mark.parametrize(
    ("text", "optimiser"),
    [
        (None, None),
        ("momentum", Momentum(learning_rate_micro=1_000_000, beta_micro=900_000)),
        ("momentum:beta=0.5,learning_rate=0.25", Momentum(learning_rate_micro=250_000, beta_micro=500_000)),
        ("adam", Adam(**ADAM)),
        ("adam:tau=1e-6", Adam(**ADAM | {"tau_micro": 1})),
        ("yogi:beta2=0.999", Yogi(**ADAM | {"beta2_micro": 999_000})),
        ("adagrad", Adagrad(learning_rate_micro=100_000, beta1_micro=0, tau_micro=1_000)),
    ],
)
def test_an_optimiser_is_named_with_its_parameters_or_with_common_ones(
    text: str | None, optimiser: Optimiser | None
) -> None:
    assert parse_optimiser(text) == optimiser


def parse_rule_of_eleven(text: str) -> Aggregation:
    return parse_rule(text, 11)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_rule_of_eleven, "mode", "--rule mode: expected one of fedavg, median, .*, got mode"),
        (parse_rule_of_eleven, "", "expected one of .*, got nothing"),
        (parse_rule_of_eleven, "median:trim=1", "expected no parameters, as KEY=VALUE; got 'trim=1'"),
        (parse_rule_of_eleven, "krum:trim=1", "expected each of byzantine at most once, .*; got 'trim=1'"),
        (parse_rule_of_eleven, "krum:byzantine=1,byzantine=2", "at most once, .*; got 'byzantine=2'"),
        (parse_rule_of_eleven, "krum:byzantine", "byzantine: expected a whole number from 0 to 10000, got ''"),
        (parse_rule_of_eleven, "krum:byzantine=many", "byzantine: expected a whole number from 0 .*, got 'many'"),
        (parse_rule_of_eleven, "krum:byzantine=1.5", "byzantine: expected a whole number .*, got '1.5'"),
        (parse_rule_of_eleven, "krum:byzantine=NaN", "byzantine: expected a whole number .*, got 'NaN'"),
        (parse_rule_of_eleven, "krum:byzantine=-1", "--rule krum:byzantine=-1: byzantine: .*from 0 to 10000, got '-1'"),
        (parse_rule_of_eleven, "multi_krum:selected=2", "selected: expected a whole number from 3 to 10000, got '2'"),
        (
            parse_rule_of_eleven,
            "norm_clipped_mean:clip_l2=1e-7",
            "clip_l2: expected a number of up to six decimals, got '1e-7'",
        ),
        (parse_optimiser, "sgd", "--optimiser sgd: expected one of momentum, adam, yogi, adagrad, got sgd"),
        (parse_optimiser, "adam:beta=0.9", "expected each of learning_rate, beta1, tau, beta2 at most once"),
        (parse_optimiser, "adam:beta1=1", "beta1: expected a number from 0 to 0.999999, got '1'"),
        (parse_optimiser, "adam:tau=0", "tau: expected a number from 0.000001 to 1000, got '0'"),
        (
            parse_optimiser,
            "adam:learning_rate=inf",
            "learning_rate: expected a number from 0.000001 to 1000, got 'inf'",
        ),
    ],
)
def test_what_is_no_strategy_is_refused_with_the_reason(parse: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        parse(text)


# --- the commands, on the in-memory ledger


class Connection:
    """Stands where a command connects to a ledger."""

    def __init__(self, hub: WorldHub) -> None:
        self._ledger = hub.ledger("coordinator")

    async def __aenter__(self) -> Any:
        return self._ledger

    async def __aexit__(self, *exception: object) -> None:
        pass


class Consortium:
    """A world with its consortium registered, as commands reach it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World()
        self.hub = WorldHub(self.world)
        spec, initial = make_spec()
        self.initial = directory / "initial.safetensors"
        self.initial.write_bytes(initial)
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(ConnectionProfile, "load", lambda _: None)
        for way in ("Ledger", "reach"):
            monkeypatch.setattr(commands, way, lambda _: Connection(self.hub))
        monkeypatch.setattr(export, "reach", lambda _: Connection(self.hub))
        world = self.world
        self.scenario = Scenario(self.hub, world.consortium, world.signers, world.opening_keys, (spec, initial))
        asyncio.run(self.scenario.register())

    def run(self, *arguments: str) -> int:
        profile = ("--profile", "/dev/null")
        self.monkeypatch.setattr(sys, "argv", ["blockfl", "task", *arguments, *profile])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    def create(self, *options: str) -> int:
        return self.run("create", TASK, "--initial", str(self.initial), "--norm-bound", "1", *options)


def test_a_user_can_choose_every_encoding() -> None:
    model, _ = make_spec()
    made = [
        parse_terms(**({"encoding": name} if "encoding" in OPTIONS else {})).specify(
            task="heart",
            title="",
            manifest=model.manifest,
            initial_model=model.initial_model,
            aggregator="coordinator",
            institutions=INSTITUTIONS,
        )
        for name in ENCODINGS
    ]
    assert [one.encoding for one in made] == list(ENCODINGS)


@pytest.fixture
def consortium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Consortium:
    return Consortium(tmp_path, monkeypatch)


def test_a_task_with_a_robust_rule_and_an_optimiser_is_created_and_described(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    assert consortium.create("--rule", "trimmed_mean", "--optimiser", "yogi:learning_rate=0.1", "--json") == 0
    spec = json.loads(capsys.readouterr().out)
    assert spec["aggregation"] == {"rule": "trimmed_mean", "trim": 1}
    assert spec["optimiser"] == {"method": "yogi"} | ADAM | {"learning_rate_micro": 100_000}
    assert (spec["check"], spec["weight_cap"]) == ("recompute", 1)
    described = "trimmed_mean (trim 1), recompute, yogi (learning_rate 0.1, beta1 0.9, tau 0.001, beta2 0.99)"
    rows = asyncio.run(list_tasks(consortium.hub.ledger("alpha")))
    assert [row["strategy"] for row in rows] == [described]
    assert consortium.run("list") == 0
    assert "trimmed_mean" in capsys.readouterr().out


def test_a_task_is_a_weighted_mean_that_everybody_checks_unless_told_otherwise(consortium: Consortium) -> None:
    assert consortium.create() == 0
    task = asyncio.run(consortium.scenario.read_task())
    assert describe_strategy(task.spec) == "fedavg, commitment"
    assert (task.spec.weight_cap, task.spec.optimiser) == (16, None)
    assert (task.spec.weight_share_max_micro, task.spec.stable_set) == (500_000, False)


def test_a_task_bounds_what_its_sums_tell_as_it_is_told(consortium: Consortium) -> None:
    assert consortium.create("--weight-share-max", "0.4", "--stable-set") == 0
    task = asyncio.run(consortium.scenario.read_task())
    assert (task.spec.weight_share_max_micro, task.spec.stable_set) == (400_000, True)
    assert describe_strategy(task.spec) == "fedavg, commitment, weights up to 0.4 of their sum, stable set"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rule", "median", "--check", "commitment"), "choose the check recompute"),
        (("--rule", "median", "--weight-cap", "2"), "expected weight_cap 1"),
        (("--rule", "krum:byzantine=1"), "krum with these parameters needs 5 updates, but minimum_accepted is 3"),
        (("--rule", "multi_krum"), "multi_krum with these parameters needs 5 updates"),
        (("--rule", "norm_clipped_mean:clip_l2=1.1"), "would clip nothing"),
        (("--rule", "mean"), "expected one of fedavg"),
        (("--weight-share-max", "0.3"), "allow 333334, or accept more"),
        (("--optimiser", "sgd"), "expected one of momentum"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused_with_what_to_do(
    consortium: Consortium, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert consortium.create(*options) == 1
    assert message in capsys.readouterr().err
    with refused(Code.TASK_UNKNOWN):
        asyncio.run(consortium.scenario.read_task())


def test_an_exported_model_holds_the_models_tensors_and_not_the_optimisers(
    consortium: Consortium, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = consortium.scenario
    assert consortium.create("--rule", "median", "--optimiser", "momentum", "--submit-seconds", "60") == 0

    async def play() -> bytes:
        scenario.spec = (await scenario.read_task()).spec
        await scenario.enrol()
        await scenario.open()
        await scenario.contribute()
        await scenario.close()
        await scenario.attest()
        return await scenario.publish(1, scenario.initial_model)

    content = asyncio.run(play())
    capsys.readouterr()
    for version, expected in ((None, content), (0, scenario.initial_model)):
        output = tmp_path / f"{version}.safetensors"
        options = () if version is None else ("--version", str(version))
        assert consortium.run("export", TASK, "--output", str(output), "--json", *options) == 0
        told = json.loads(capsys.readouterr().out)
        record = asyncio.run(scenario.model(told["version"]))
        assert told["digest"] == record.digest
        exported = safetensors.numpy.load(output.read_bytes())
        model = unflatten(scenario.spec.manifest, decode_version(scenario.spec, expected).model)
        assert {name: one.tolist() for name, one in exported.items()} == {
            name: one.tolist() for name, one in model.items()
        }
    assert consortium.run("export", TASK, "--output", str(tmp_path / "none" / "model.safetensors")) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert consortium.run("export", TASK, "--output", str(output), "--version", "2") == 1
    assert "BFL117" in capsys.readouterr().err
