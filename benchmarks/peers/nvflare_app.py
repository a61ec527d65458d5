"""NVFlare's simulator without training: what its rounds cost. Runs in NVFlare's own environment, never in ours.

    python nvflare_app.py --dimension 10000 --rounds 5 --times times.json --workspace DIRECTORY
    python nvflare_app.py client …                           # what the simulator starts for each client

The file of times gets the moment at which each round's sum was ready, in seconds.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.workflows.fedavg import FedAvg

CLIENTS = 4
EXAMPLES = 100


class Timed(FedAvg):
    """FedAvg of all clients that notes when each round's sum is ready."""

    def __init__(self, times: str, dimension: int, num_clients: int, num_rounds: int) -> None:
        super().__init__(num_clients=num_clients, num_rounds=num_rounds)
        # NVFlare makes the component anew from attributes with the arguments' names.
        self.times, self.dimension = times, dimension
        self.num_clients, self.num_rounds = num_clients, num_rounds
        self._moments: list[float] = []

    def load_model(self) -> FLModel:
        """Return zeros."""
        return FLModel(params={"weights": np.zeros(self.dimension, np.float32)}, params_type=ParamsType.FULL)

    def save_model(self, model) -> None:
        """Keep nothing."""

    def update_model(self, model, model_update, *arguments, **options) -> FLModel:
        """Step, and note the moment."""
        stepped = super().update_model(model, model_update, *arguments, **options)
        self._moments.append(time.monotonic())
        Path(self.times).write_text(json.dumps(self._moments))
        return stepped


def contribute() -> None:
    """Add a little noise to each model that comes."""
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        if model is None:
            return
        weights = model.params["weights"]
        noise = np.random.default_rng().standard_normal(weights.size, np.float32) / np.float32(np.sqrt(weights.size))
        flare.send(FLModel(params={"weights": weights + noise}, meta={"NUM_STEPS_CURRENT_ROUND": EXAMPLES}))


def main() -> None:
    """Run the simulator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--times", required=True)
    parser.add_argument("--workspace", required=True)
    arguments = parser.parse_args()
    from nvflare.job_config.api import FedJob
    from nvflare.job_config.script_runner import FrameworkType, ScriptRunner

    job = FedJob(name="untrained", min_clients=CLIENTS)
    job.to_server(Timed(arguments.times, arguments.dimension, CLIENTS, arguments.rounds))
    for number in range(CLIENTS):
        runner = ScriptRunner(script=__file__, script_args="client", framework=FrameworkType.NUMPY)
        job.to(runner, f"site-{number + 1}")
    job.simulator_run(arguments.workspace, threads=CLIENTS)


if __name__ == "__main__":
    if sys.argv[1:] == ["client"]:
        contribute()
    else:
        main()
