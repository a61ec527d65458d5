"""A version as a file: the last, the best by a metric, in each format, with a card that says what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from blockfl.cli.export import Exported, export_version, find_best, make_card, split_values, write_model
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.model import decode_model
from blockfl.protocol.records import Metric, Metrics
from support.scenario import Scenario
from support.world import World
from support.world_ledger import WorldHub


@pytest.fixture
async def published() -> tuple[WorldHub, Scenario, bytes]:
    """A task with versions 0 and 1, of which alpha has reported a loss and an AUC each."""
    world = World()
    hub = WorldHub(world)
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    await scenario.attest()
    model = await scenario.publish(1, scenario.initial_model)
    for version, content, loss, auc in ((0, scenario.initial_model, 5, 7), (1, model, 9, 8)):
        values = (("auc", "institution", auc), ("loss", "mean", loss))
        report = Metrics(
            task="heart",
            version=version,
            organisation="alpha",
            model_digest=compute_digest(content),
            values=tuple(
                Metric(name=name, pooling=pooling, value_micro=value * 100_000, count=5)  # type: ignore[arg-type]
                for name, pooling, value in values
            ),
            reported_at_ms=0,
        )
        await hub.ledger("alpha").report_metrics(report)
    return hub, scenario, model


async def export(hub: WorldHub, version: int | str | None = None, **options: str) -> Exported:
    return await export_version(hub.ledger("alpha"), "heart", version, **options)  # type: ignore[arg-type]


async def test_best_is_by_a_metric_in_the_direction_that_its_name_has(
    published: tuple[WorldHub, Scenario, bytes],
) -> None:
    hub, scenario, model = published
    assert (await export(hub)).version == 1
    assert (await export(hub, "best")).version == 0
    best = await export(hub, "best", metric="auc")
    assert (best.version, best.digest) == (1, compute_digest(model))
    assert (best.values == decode_model(scenario.spec.manifest, model)).all()
    with pytest.raises(LedgerError, match="no version has a metric 'f1': there are auc, loss"):
        await export(hub, "best", metric="f1")


def test_of_equal_versions_the_first_is_the_best() -> None:
    rows = [{"version": number, "metrics": {"loss": {"value": value}}} for number, value in enumerate((3, 1, 1))]
    assert find_best(rows, "loss") == 1


async def test_both_formats_hold_the_tensors_by_name(
    published: tuple[WorldHub, Scenario, bytes], tmp_path: Path
) -> None:
    hub, scenario, model = published
    exported = await export(hub)
    for name in ("model.npz", "model.safetensors"):
        write_model(exported, tmp_path / name)
    expected = split_values(scenario.spec.manifest, decode_model(scenario.spec.manifest, model))
    with np.load(tmp_path / "model.npz", allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files}
    assert sorted(expected) == sorted(found) == sorted(load_file(tmp_path / "model.safetensors"))
    assert all((found[name] == expected[name]).all() for name in expected)
    with pytest.raises(LedgerError, match=r"named \.safetensors or \.npz"):
        write_model(exported, tmp_path / "model.keras")


async def test_a_card_says_what_a_version_is_and_where_it_came_from(
    published: tuple[WorldHub, Scenario, bytes],
) -> None:
    hub, scenario, model = published
    card = make_card(await export(hub))
    assert card.startswith("# Heart disease: version 1\n")
    assert f"SHA-256 on the ledger `{compute_digest(model)}`" in card
    assert f"specification SHA-256 `{scenario.spec.record_digest}`" in card
    assert "| auc | 0.8 | 0.8 | 0.8 | 5 |" in card
    assert f"| 1 | 1 | alpha, beta, delta, gamma | `{compute_digest(model)}` |" in card
    assert f"| 0 | 0 | none | `{compute_digest(scenario.initial_model)}` |" in card
    assert "Confirmed by: alpha" in card
