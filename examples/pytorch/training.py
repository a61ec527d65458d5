"""The factory's model in PyTorch, as a plant hands it to its agent: ``blockfl institution run --code training.py``."""

import numpy as np
import torch

from blockfl.institution.adapters.pytorch import adapt


def build_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(9, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))


def load_data(path):
    rows = np.load(path)
    return {"train": (rows["x_train"], rows["y_train"]), "test": (rows["x_test"], rows["y_test"])}


weights, assign, train, evaluate, kinds = adapt(
    loss=torch.nn.MSELoss(),
    optimizer=lambda parameters, rate: torch.optim.SGD(parameters, rate or 0.03),
    metrics={"r_squared": lambda output, y: 1 - ((output - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()},
)
