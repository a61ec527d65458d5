"""Flower's apps without training: what its rounds cost. Runs in Flower's own environment, never in ours.

    python flower_app.py simulation --dimension 10000 --rounds 5 --times times.json
    python flower_app.py simulation --secure …      # with SecAgg+
    python flower_app.py server --address 127.0.0.1:9000 …, python flower_app.py client …    # the older gRPC interface

`flwr run` takes ``server_app`` and ``client_app`` from here as well, with what it is to do in its run's configuration.
The file of times gets the moment at which each round's sum was ready, in seconds.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from flwr.client import NumPyClient, start_client
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig, start_server
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp

CLIENTS = 4
EXAMPLES = 100


class Still(NumPyClient):
    """Adds a little noise to what it gets."""

    def fit(self, parameters, _):
        """Return the model with noise of L2 norm about 1."""
        model = parameters[0]
        noise = np.random.default_rng().standard_normal(model.size, np.float32) / np.float32(np.sqrt(model.size))
        return [model + noise], EXAMPLES, {}


class Timed(FedAvg):
    """FedAvg of all clients, without evaluation, that notes when each round's sum is ready."""

    def __init__(self, dimension: int, times: Path) -> None:
        self._times = times
        self._moments: list[float] = []
        initial = ndarrays_to_parameters([np.zeros(dimension, np.float32)])
        everybody = {"min_fit_clients": CLIENTS, "min_available_clients": CLIENTS}
        super().__init__(fraction_evaluate=0.0, initial_parameters=initial, **everybody)

    def aggregate_fit(self, server_round, results, failures):
        """Sum, and note the moment."""
        if len(results) != CLIENTS or failures:
            raise RuntimeError(f"round {server_round}: {len(results)} of {CLIENTS} clients, {failures[:1]}")
        total = super().aggregate_fit(server_round, results, failures)
        self._moments.append(time.monotonic())
        self._times.write_text(json.dumps(self._moments))
        return total


def make_server_app(dimension: int, rounds: int, times: Path, *, secure: bool) -> ServerApp:
    """Return the server's app."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run(grid, context, dimension, rounds, times, secure=secure)

    return app


def run(grid: Grid, context: Context, dimension: int, rounds: int, times: Path, *, secure: bool) -> None:
    """Run the rounds of a task."""
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=rounds), strategy=Timed(dimension, times))
    # Every client's secret is shared among all; any three of the four can stand in for one that is gone.
    fit = SecAggPlusWorkflow(num_shares=CLIENTS, reconstruction_threshold=CLIENTS - 1) if secure else None
    DefaultWorkflow(fit_workflow=fit)(grid, legacy)


def make_client_app(*, secure: bool) -> ClientApp:
    """Return the clients' app."""
    return ClientApp(client_fn=lambda _: Still().to_client(), mods=[secaggplus_mod] if secure else [])


server_app = ServerApp()


@server_app.main()
def run_configured(grid: Grid, context: Context) -> None:
    """Run what `flwr run` was asked for."""
    config = context.run_config
    run(grid, context, int(config["dimension"]), int(config["rounds"]), Path(str(config["times"])), secure=False)


client_app = make_client_app(secure=False)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("simulation", "server", "client"))
    parser.add_argument("--dimension", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--times", type=Path)
    parser.add_argument("--address")
    parser.add_argument("--secure", action="store_true")
    arguments = parser.parse_args()
    if arguments.what == "client":
        start_client(server_address=arguments.address, client=Still().to_client(), insecure=True)
    elif arguments.what == "server":
        strategy = Timed(arguments.dimension, arguments.times)
        start_server(
            server_address=arguments.address, config=ServerConfig(num_rounds=arguments.rounds), strategy=strategy
        )
    else:
        from flwr.simulation import run_simulation

        run_simulation(
            server_app=make_server_app(arguments.dimension, arguments.rounds, arguments.times, secure=arguments.secure),
            client_app=make_client_app(secure=arguments.secure),
            num_supernodes=CLIENTS,
            backend_config={"client_resources": {"num_cpus": 0.5, "num_gpus": 0.0}},
        )


if __name__ == "__main__":
    main()
