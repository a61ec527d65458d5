"""A version as a file: the last, the best by a metric, in each format, with a card that says what it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.numpy import load_file

from blockfl.audit.plot import draw_metrics
from blockfl.cli.export import export_version, find_best, make_card
from blockfl.cli.formats import Exported, choose_format, choose_layers, split_values, write_arrays
from blockfl.cli.history import make_csv, write_events
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.metrics import Metric, Metrics
from blockfl.protocol.model import decode_model
from support.scenario import Scenario
from support.world import World
from support.world_ledger import WorldHub

READ_EVENTS = """
import json, sys
import tensorflow as tf
found = []
for one in tf.compat.v1.train.summary_iterator(sys.argv[1]):
    scalars = {value.tag: round(value.simple_value, 6) for value in one.summary.value}
    found.append([one.wall_time, one.step, one.file_version, scalars])
print(json.dumps(found))
"""


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
        write_arrays(exported, tmp_path / name)
    expected = split_values(scenario.spec.manifest, decode_model(scenario.spec.manifest, model))
    with np.load(tmp_path / "model.npz", allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files}
    assert sorted(expected) == sorted(found) == sorted(load_file(tmp_path / "model.safetensors"))
    assert all((found[name] == expected[name]).all() for name in expected)
    with pytest.raises(LedgerError, match=r"only \.safetensors and \.npz can be written"):
        write_arrays(exported, tmp_path / "model.keras")
    assert not (tmp_path / "model.keras").exists()


@pytest.mark.parametrize(
    ("name", "form", "chosen"),
    [
        ("a.keras", None, "keras"),
        ("a.npz", "numpy", "numpy"),
        ("a.weights", "safetensors", "safetensors"),
    ],
)
def test_the_format_is_what_is_said_or_named(name: str, form: Any, chosen: str) -> None:
    assert choose_format(Path(name), form) == chosen


@pytest.mark.parametrize(
    ("name", "form"), [("a.keras", "safetensors"), ("a.npz", "keras"), ("a.model", "keras"), ("a.h5", None)]
)
def test_a_name_that_says_another_format_is_refused(name: str, form: Any) -> None:
    with pytest.raises(LedgerError, match="expected an --output named"):
        choose_format(Path(name), form)


def test_a_keras_file_needs_layers_and_no_other_does() -> None:
    with pytest.raises(LedgerError, match="name the task's model with --model"):
        choose_layers("keras", None, None, None)
    with pytest.raises(LedgerError, match=r"are for a \.keras file"):
        choose_layers("numpy", Path("model.keras"), None, None)


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


async def test_the_history_has_a_line_for_each_version_and_metric(published: tuple[WorldHub, Scenario, bytes]) -> None:
    hub, _, _ = published
    lines = [line.split(",") for line in make_csv((await export(hub)).rows).splitlines()]
    assert ",".join(lines[0]) == "version,round,published,metric,pooling,value,lowest,highest,samples,alpha"
    assert [[line[0], line[3], *line[5:]] for line in lines[1:]] == [
        ["0", "auc", "0.7", "0.7", "0.7", "5", "0.7"],
        ["0", "loss", "0.5", "0.5", "0.5", "5", "0.5"],
        ["1", "auc", "0.8", "0.8", "0.8", "5", "0.8"],
        ["1", "loss", "0.9", "0.9", "0.9", "5", "0.9"],
    ]


async def test_each_metric_is_drawn_with_a_line_of_each_institution(
    published: tuple[WorldHub, Scenario, bytes],
) -> None:
    hub, _, _ = published
    picture = ElementTree.fromstring(draw_metrics((await export(hub)).rows))
    below = {"svg": "http://www.w3.org/2000/svg"}
    plots = picture.findall("svg:g", below)
    texts = [[one.text for one in plot.findall("svg:text", below)] for plot in plots]
    assert [one[0] for one in texts] == [f"{name} (as the institutions reported it)" for name in ("auc", "loss")]
    assert all({"all, pooled", "alpha"} <= set(one) for one in texts)
    heights = [[float(dot.attrib["cy"]) for dot in plot.findall("svg:circle", below)] for plot in plots]
    assert [(one[0] > one[1], one[2:] == one[:2]) for one in heights] == [(True, True), (True, True)]
    assert int(picture.attrib["height"]) >= 2 * max(map(max, heights))


@pytest.mark.tensorflow
async def test_tensorflow_reads_the_logs(published: tuple[WorldHub, Scenario, bytes], tmp_path: Path) -> None:
    hub, _, _ = published
    rows = (await export(hub)).rows
    write_events(rows, tmp_path)
    write_events(rows, tmp_path)  # replaces what is there
    assert sorted(one.name for one in tmp_path.iterdir()) == ["all-institutions", "alpha"]
    (file,) = (tmp_path / "alpha").iterdir()
    done = subprocess.run([sys.executable, "-c", READ_EVENTS, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [
        [1_800_000_000, 0, "brain.Event:2", {}],
        [1_800_000_000, 0, "", {"auc": 0.7, "loss": 0.5}],
        [1_800_000_000, 1, "", {"auc": 0.8, "loss": 0.9}],
    ]
