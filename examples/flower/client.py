"""A client of Flower as its users write them: it knows nothing of BlockFL."""

import numpy as np
from flwr.client import NumPyClient

INPUTS = 13


class HeartClient(NumPyClient):
    """A logistic regression on one hospital's rows."""

    def __init__(self, path):
        self.weights, self.bias = np.zeros(INPUTS), np.zeros(1)
        if path is not None:
            rows = np.load(path)
            self.x, self.y = rows["x_train"].astype(float), rows["y_train"].astype(float)
            self.x_test, self.y_test = rows["x_test"].astype(float), rows["y_test"].astype(float)

    def get_parameters(self, config):
        return [self.weights, self.bias]

    def fit(self, parameters, config):
        weights, bias = (np.array(one) for one in parameters)
        for _ in range(config["local_epochs"]):
            order = np.random.permutation(len(self.y))
            for rows in np.array_split(order, max(1, len(order) // config["batch_size"])):
                error = 1 / (1 + np.exp(-(self.x[rows] @ weights + bias))) - self.y[rows]
                weights = weights - 0.1 * self.x[rows].T @ error / len(rows)
                bias = bias - 0.1 * error.mean()
        return [weights, bias], len(self.y), {}

    def evaluate(self, parameters, config):
        margins = self.x_test @ np.array(parameters[0]) + parameters[1]
        loss = np.mean(np.logaddexp(0, -(2 * self.y_test - 1) * margins))
        accuracy = np.mean((margins > 0) == (self.y_test > 0.5))
        return float(loss), len(self.y_test), {"accuracy": float(accuracy)}
