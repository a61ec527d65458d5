"""Training without the others, as a federated round would: each epoch begins with the optimizer's initial state."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from blockfl.institution.dataset import Dataset
from blockfl.institution.frames import Evaluated, Train
from blockfl.institution.training import TrainingProcess
from blockfl.institution.workload import Workload

Array = npt.NDArray[Any]
Measure = Callable[[Array, Array], float]
"""Makes a number of labels, shape (n,), and predictions, shape (n, outputs)."""


class Trainer(Protocol):
    """An example's model: trained on samples, and measured on their test samples."""

    def train(self, own: Dataset) -> float:
        """Return what a model gives that is trained on these samples."""

    def measure(self, file: Path, own: Dataset) -> float:
        """Return what the values in a safetensors file give."""


@dataclass(frozen=True, kw_only=True)
class KerasTrainer:
    """A Keras model, in this process, which only then imports Keras.

    Attributes:
        model: Its compiled file.
        build_model: Returns it by seed; equal seeds give equal weights.
        measured: The metric.
        rounds: How many epochs.
        batch_size: Of each epoch.
        seed: Of the model and of training.
    """

    model: Path
    build_model: Callable[[int], Any]
    measured: Measure
    rounds: int
    batch_size: int
    seed: int

    def train(self, own: Dataset) -> float:
        """Return what a model gives that is trained on these samples."""
        import keras

        keras.backend.clear_session()
        keras.utils.set_random_seed(self.seed)
        model = self.build_model(self.seed)
        state = [(one, np.array(one.numpy())) for one in model.optimizer.variables]
        for _ in range(self.rounds):
            for variable, value in state:
                variable.assign(value)
            model.fit(own.x_train, own.y_train, epochs=1, batch_size=self.batch_size, verbose=0)
        return self._measure(model, own)

    def measure(self, file: Path, own: Dataset) -> float:
        """Return what the values in a safetensors file give."""
        import keras

        # The file's own layers: Keras numbers the names of those that are built after them.
        model = keras.models.load_model(self.model)
        values, prefix = load_file(file), f"{model.name}/"
        for weight in model.weights:
            name = str(weight.path).removeprefix(prefix)
            if name in values:  # integers, such as a counter, stay at home
                weight.assign(values[name])
        return self._measure(model, own)

    def _measure(self, model: Any, own: Dataset) -> float:
        return self.measured(own.y_test.astype(np.float64), np.asarray(model(own.x_test), np.float64))


@dataclass(frozen=True, kw_only=True)
class CodeTrainer:
    """Code of any framework, in a confined process with an interpreter of its own, as at an institution.

    Attributes:
        code: As ``blockfl institution run --code``.
        python: As ``--python``.
        metric: A name that its ``evaluate`` returns.
        rounds: How many epochs.
        batch_size: Of each epoch.
        seed: Of the model and of training.
    """

    code: Path
    python: Path
    metric: str
    rounds: int
    batch_size: int
    seed: int

    def train(self, own: Dataset) -> float:
        """Return what a model gives that is trained on these samples."""

        async def train(training: TrainingProcess) -> Evaluated:
            values = await training.initial()
            for number in range(1, self.rounds + 1):
                seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
                request = Train(epochs=1, batch_size=self.batch_size, learning_rate=None, seed=seed, round=number)
                values, _ = await training.train(values, request)
            return await training.evaluate(values)

        return self._ask(own, train)

    def measure(self, file: Path, own: Dataset) -> float:
        """Return what the values in a safetensors file give."""
        values = load_file(file)

        async def measure(training: TrainingProcess) -> Evaluated:
            tensors = (await training.describe()).tensors
            return await training.evaluate(np.concatenate([values[one.name].ravel() for one in tensors]))

        return self._ask(own, measure)

    def _ask(self, own: Dataset, ask: Callable[[TrainingProcess], Any]) -> float:
        async def run(directory: Path) -> Evaluated:
            data = directory / "rows.npz"
            np.savez(data, x_train=own.x_train, y_train=own.y_train, x_test=own.x_test, y_test=own.y_test)
            workload = Workload(code=self.code, data=data, python=self.python)
            state = directory / "state"
            state.mkdir()
            async with TrainingProcess(workload, directory=state, seed=self.seed) as training:
                found: Evaluated = await ask(training)
                return found

        with tempfile.TemporaryDirectory() as directory:
            return self._find(asyncio.run(run(Path(directory))))

    def _find(self, found: Evaluated) -> float:
        others = {one.name: one.value for one in found.others}
        value = {**others, "accuracy": found.accuracy, "loss": found.loss}.get(self.metric)
        if value is None:
            raise SystemExit(f"{self.code}: evaluate() returned no finite {self.metric}")
        return value
