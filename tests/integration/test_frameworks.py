"""Each framework trains in an environment of its own, confined, with twenty lines of the user's or fewer.

The environments of PyTorch and Flower are those of the examples; scikit-learn's is named by ``SKLEARN_PYTHON``. A test
whose framework cannot be had is skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from examples.environment import Unavailable, find_flower, find_pytorch

from blockfl.institution.errors import TrainingError
from blockfl.institution.frames import Train
from blockfl.institution.training import TrainingProcess
from blockfl.institution.workload import Workload

LOAD = """
def load_data(path):
    rows = np.load(path)
    return {"train": (rows[:60, :4], rows[:60, 4].astype(int)), "test": (rows[60:, :4], rows[60:, 4].astype(int))}
"""
TORCH = f"""
import numpy as np
import torch
from blockfl.institution.adapters.pytorch import adapt

def build_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
{LOAD}
weights, assign, train, evaluate, kinds = adapt(
    loss=torch.nn.BCEWithLogitsLoss(),
    optimizer=lambda parameters, rate: torch.optim.SGD(parameters, rate or 0.1),
    metrics={{"accuracy": lambda output, y: ((output > 0) == (y > 0.5)).float().mean()}},
)
"""
SKLEARN = f"""
import numpy as np
from sklearn.linear_model import SGDClassifier
from blockfl.institution.adapters.scikit import adapt

def build_model():
    return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05, random_state=0)
{LOAD}
weights, assign, train, evaluate = adapt(inputs=4, classes=[0, 1])
"""
FLOWER = """
from client import LogisticClient
from blockfl.institution.adapters.flower import adapt

build_model, load_data, weights, assign, train, evaluate = adapt(LogisticClient, samples=(60, 20))
"""
FLOWER_APP = """
import numpy as np
from client import app
from blockfl.institution.adapters.flower import adapt_app

build_model, load_data, weights, assign, train, evaluate = adapt_app(
    app, initial=lambda: {"w": np.zeros(4), "b": np.zeros(1)}, samples=lambda path: (60, 20), scale=0.5
)
"""
APP = """
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message: Message, context: Context):
    rows = np.load(context.node_config["data-path"])[:60].astype(float)
    config, (w, b) = message.content["config"], message.content["arrays"].to_numpy_ndarrays()
    for _ in range(config["local_epochs"]):
        error = 1 / (1 + np.exp(-(rows[:, :4] @ w + b))) - rows[:, 4]
        w = w - context.node_config["scale"] * rows[:, :4].T @ error / 60
        b = b - context.node_config["scale"] * error.mean(keepdims=True)
    arrays = ArrayRecord(dict(zip(message.content["arrays"], map(Array, (w, b)))))
    metrics = MetricRecord({"train_loss": float(np.mean(error**2)), "num-examples": 60})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context):
    rows = np.load(context.node_config["data-path"])[60:].astype(float)
    w, b = message.content["arrays"].to_numpy_ndarrays()
    margins, signs = rows[:, :4] @ w + b, 2 * rows[:, 4] - 1
    numbers = {"eval_loss": np.logaddexp(0, -signs * margins).mean(), "accuracy": (margins * signs > 0).mean()}
    metrics = MetricRecord({name: float(value) for name, value in numbers.items()} | {"num-examples": 20})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
"""
CLIENT = """
import numpy as np
BASE

ROWS = np.load(__file__.replace("client.py", "rows.npy")).astype(float)
X, Y, XT, YT = ROWS[:60, :4], ROWS[:60, 4], ROWS[60:, :4], ROWS[60:, 4]

class LogisticClient(NumPyClient):
    def __init__(self):
        self.w, self.b = np.zeros(4), np.zeros(1)

    def get_parameters(self, config):
        return [self.w, self.b]

    def fit(self, parameters, config):
        self.w, self.b = [np.array(one) for one in parameters]
        for _ in range(config["local_epochs"]):
            error = 1 / (1 + np.exp(-(X @ self.w + self.b))) - Y
            self.w, self.b = self.w - 0.5 * X.T @ error / len(Y), self.b - 0.5 * error.mean(keepdims=True)
        return [self.w, self.b], len(Y), {}

    def evaluate(self, parameters, config):
        margins = XT @ np.array(parameters[0]) + parameters[1]
        loss = np.mean(np.logaddexp(0, -(2 * YT - 1) * margins))
        return float(loss), len(YT), {"accuracy": float(np.mean((margins > 0) == (YT > 0.5)))}
"""
FLWR = "from flwr.client import NumPyClient"
PLAIN = "class NumPyClient: ..."
"""What a client's class is made of, without Flower: its adapter asks for nothing of Flower's."""


def find_scikit() -> Path:
    found = os.environ.get("SKLEARN_PYTHON")
    if not found:
        raise Unavailable("SKLEARN_PYTHON names no interpreter")
    return Path(found)


def write(tmp_path: Path, code: str, client: str = "") -> Workload:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(80, 4)).astype(np.float32)
    rows = np.column_stack([x, x[:, 0] + x[:, 1] > 0]).astype(np.float32)
    home = tmp_path / "code"
    home.mkdir()
    np.save(home / "rows.npy", rows)
    (home / "training.py").write_text(code)
    (home / "client.py").write_text(client)
    return Workload(code=home, data=None if "ROWS" in client else home / "rows.npy")


async def check(workload: Workload, directory: Path) -> None:
    """Train for twenty epochs, twice the same, to a model that is better than the first."""
    request = Train(epochs=20, batch_size=8, learning_rate=None, seed=3)
    async with TrainingProcess(workload, directory=directory, seed=3) as training:
        await training.rehearse(request)
        base = await training.initial()
        first, _ = await training.train(base, request)
        again, _ = await training.train(base, request)
        before, after = await training.evaluate(base), await training.evaluate(first)
    assert first.tolist() == again.tolist()
    assert before.loss is not None
    assert after.loss is not None
    assert after.loss < 0.8 * before.loss
    assert (after.accuracy or 0) >= 0.8


@pytest.mark.parametrize(
    ("find", "code"), [pytest.param(find_pytorch, TORCH, id="PyTorch"), pytest.param(find_scikit, SKLEARN, id="scikit")]
)
async def test_a_class_that_counts_more_is_found_more_often(
    tmp_path: Path, find: Callable[[], Path], code: str
) -> None:
    try:
        python = find()
    except Unavailable as reason:
        pytest.skip(str(reason))
    workload = write(tmp_path, code)
    request = Train(epochs=5, batch_size=8, learning_rate=None, seed=3)
    weighted = request.model_copy(update={"class_weights": (1.0, 1.0)})
    workload = Workload(code=workload.code, data=workload.data, python=python)
    async with TrainingProcess(workload, directory=tmp_path / "state", seed=3) as training:
        base = await training.initial()
        plain, _ = await training.train(base, request)
        same, _ = await training.train(base, weighted)
        other, _ = await training.train(base, weighted.model_copy(update={"class_weights": (1.0, 20.0)}))
    assert np.allclose(plain, same, rtol=0, atol=1e-5)
    assert other[-1] > plain[-1] + 0.05, "the bias goes to the class that counts more"


async def test_weights_that_training_does_not_look_at_are_refused(tmp_path: Path) -> None:
    weighted = Train(epochs=1, batch_size=8, learning_rate=None, seed=3, class_weights=(1.0, 2.0))
    refused = re.compile(r"train\(\) does not look at config\['sample_weight'\]")
    for number, code in enumerate((FLOWER, FLOWER + "train = lambda model, data, config: None\n")):
        home = tmp_path / str(number)
        home.mkdir()
        workload = write(home, code, CLIENT.replace("BASE", PLAIN))
        async with TrainingProcess(workload, directory=home / "state", seed=3) as training:
            with pytest.raises(TrainingError, match=refused):
                await training.rehearse(weighted)
            with pytest.raises(TrainingError, match=refused):
                await training.train(await training.initial(), weighted)


@pytest.mark.parametrize(
    ("find", "code", "client"),
    [
        pytest.param(find_pytorch, TORCH, "", id="PyTorch"),
        pytest.param(find_scikit, SKLEARN, "", id="scikit-learn"),
        pytest.param(find_flower, FLOWER, CLIENT.replace("BASE", FLWR), id="Flower"),
        pytest.param(find_flower, FLOWER_APP, APP, id="Flower's ClientApp"),
    ],
)
async def test_a_framework_trains_in_its_own_environment(
    tmp_path: Path, find: Callable[[], Path], code: str, client: str
) -> None:
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    try:
        python = find()
    except Unavailable as reason:
        pytest.skip(str(reason))
    workload = write(tmp_path, code, client)
    await check(Workload(code=workload.code, data=workload.data, python=python), tmp_path / "state")


async def test_the_adapter_for_flower_needs_nothing_of_flower_itself(tmp_path: Path) -> None:
    await check(write(tmp_path, FLOWER, CLIENT.replace("BASE", PLAIN)), tmp_path / "state")
