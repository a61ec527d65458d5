"""A version as a .keras file: Keras loads it, with the values of the ledger and compiled as the task's model was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from blockfl.cli.formats import Exported, write_keras
from blockfl.institution.errors import TrainingError
from blockfl.institution.training import TrainingProcess, Workload, make_manifest
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.manifest import Manifest
from blockfl.protocol.model import manifest_of
from support.scenario import make_spec

pytestmark = pytest.mark.tensorflow

MAKE = """
import sys, keras
from keras import layers as L
for name, units in (("model", 4), ("other", 5)):
    model = keras.Sequential([keras.Input((3,)), L.Dense(units), L.BatchNormalization(), L.Dropout(0.1), L.Dense(1)])
    decay = keras.optimizers.schedules.ExponentialDecay(0.25, decay_steps=1, decay_rate=0.5)
    model.compile(keras.optimizers.Adam(decay), "mse", metrics=["mae"])
    model.save(f"{sys.argv[1]}/{name}.keras")
"""
LOAD = """
import json, sys, numpy as np, keras
model = keras.models.load_model(sys.argv[1])
found = {str(one.path).removeprefix(model.name + "/"): np.asarray(one).ravel().tolist() for one in model.weights}
history = model.fit(np.ones((4, 3)), np.ones(4), verbose=0).history
rate = model.get_compile_config()["optimizer"]["config"]["learning_rate"]["config"]["initial_learning_rate"]
print(json.dumps({"weights": found, "rate": rate, "metrics": sorted(history)}))
"""
CODE = """
import numpy as np
def build_model(): return {"w": np.zeros(2)}
def load_data(path): ...
def weights(model): return model
def assign(model, arrays): model.update(arrays)
def train(model, data, config): ...
def evaluate(model, data): ...
"""


def run(script: str, argument: Path) -> str:
    done = subprocess.run([sys.executable, "-c", script, str(argument)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


async def read_exported(workload: Workload, scratch: Path) -> Exported:
    """Return a version of this model's task whose values are 1, 2, 3 and so on."""
    scratch.mkdir()
    async with TrainingProcess(workload, directory=scratch) as training:
        manifest = make_manifest(await training.describe())
    task: Any = SimpleNamespace(spec=make_spec()[0].model_copy(update={"manifest": manifest}))
    values = np.arange(1, manifest.dimension + 1, dtype=np.float32)
    return Exported(task=task, version=1, digest="", values=values, rows=[])


async def test_keras_loads_a_version_with_the_ledgers_values(tmp_path: Path) -> None:
    run(MAKE, tmp_path)
    layers = Workload(model=tmp_path / "model.keras")
    exported = await read_exported(layers, tmp_path / "scratch")
    await write_keras(exported, layers, tmp_path / "final.keras")
    found = json.loads(run(LOAD, tmp_path / "final.keras"))
    for name, array in exported.arrays.items():
        assert found["weights"][name] == array.ravel().tolist()
    assert len(exported.arrays) == 8
    assert found["rate"] == 0.25
    assert found["metrics"] == ["loss", "mae"]
    with pytest.raises(ProtocolError, match="BFL306"):
        await write_keras(exported, Workload(model=tmp_path / "other.keras"), tmp_path / "wrong.keras")
    assert not (tmp_path / "wrong.keras").exists()


async def test_an_institution_s_personal_layers_complete_the_model(tmp_path: Path) -> None:
    run(MAKE, tmp_path)
    layers = Workload(model=tmp_path / "model.keras")
    whole = await read_exported(layers, tmp_path / "scratch")
    name = next(one.name for one in whole.task.spec.manifest.tensors if one.name.endswith("gamma"))
    manifest = manifest_of({key: array for key, array in whole.arrays.items() if key != name})
    kinds = {one.name: one.kind for one in whole.task.spec.manifest.tensors}
    tensors = tuple(one.model_copy(update={"kind": kinds[one.name]}) for one in manifest.tensors)
    spec = whole.task.spec.model_copy(update={"manifest": Manifest(tensors=tensors), "personal": (name,)})
    task: Any = SimpleNamespace(spec=spec)
    values = np.arange(1, manifest.dimension + 1, dtype=np.float32)
    own = {name: np.array([5, 6, 7, 8], np.float32)}
    exported = Exported(task=task, version=1, digest="", values=values, rows=[], personal=own)
    await write_keras(exported, layers, tmp_path / "final.keras")
    found = json.loads(run(LOAD, tmp_path / "final.keras"))["weights"]
    assert all(found[key] == array.ravel().tolist() for key, array in exported.arrays.items())
    assert found[name] == [5, 6, 7, 8]


async def test_code_that_is_no_keras_model_has_no_keras_file(tmp_path: Path) -> None:
    code = tmp_path / "training.py"
    code.write_text(CODE)
    layers = Workload(code=code)
    exported = await read_exported(layers, tmp_path / "scratch")
    with pytest.raises(TrainingError, match="no Keras model: export its arrays"):
        await write_keras(exported, layers, tmp_path / "final.keras")
    assert not (tmp_path / "final.keras").exists()
