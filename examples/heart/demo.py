"""The main job in one command: a seven-organisation network, four real hospitals, twelve rounds, the result, the audit.

Everything is done by ``blockfl`` commands in processes of their own; this file starts them, waits and collects. One
institution sends a scaled update in one round, and is seen to be rejected. Nothing stays behind unless ``--keep``.
"""

import argparse
import contextlib
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples.heart import containers
from examples.heart.hosts_stage import HostsStage, require_hosts
from examples.heart.stage import COORDINATOR, PORTS, DemoError, Stage
from examples.heart.summary import plot_accuracy, print_rounds
from examples.port_range import reserve_ports

COMMITTEE = ("coordinator", "regulator", "university")
HOSPITALS = ("cleveland", "hungary", "longbeach", "switzerland")
CHEAT, CHEATING_ROUND = "hungary", 5
TASK = "heart"
EPOCHS, BATCH_SIZE, BOUND_L2 = 1, 16, 3.0
AUDITED = ("verified", "blocks", "transactions", "genesis_hash", "last_block_hash", "steps")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/demo"))
    parser.add_argument("--ledger", choices=("embedded", "local", "compose", "hosts"), default="embedded")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7, help="data split, initial model, training and rounding")
    parser.add_argument("--rule", default="fedavg", help="as of `blockfl task create`: median, trimmed_mean, krum, …")
    parser.add_argument("--optimiser", help="as of `blockfl task create`: momentum, adam, yogi, adagrad")
    parser.add_argument("--keep", action="store_true", help="leave the network running")
    arguments = parser.parse_args()
    try:
        with terminating():
            stage = set_stage(arguments)
            try:
                summary = play(stage, arguments)
            finally:
                stage.close()
                if not arguments.keep:
                    stage.take_down()
    except DemoError as error:
        sys.exit(f"error: {error}")
    print_rounds(summary)
    print(f"\nreport: {stage.directory / 'report.html'}; figures: {stage.directory / 'summary.json'}")
    print(f"evidence, which verifies anywhere with `blockfl audit verify`: {stage.evidence}")
    if not summary["audit"]["verified"] or len(set(summary["model_digests"].values())) != 1:
        sys.exit("error: the result is not what it should be")


def set_stage(arguments: argparse.Namespace) -> Stage:
    """Put away what an earlier demo has left, and return where this one plays.

    Raises:
        DemoError: It cannot play there.
    """
    directory: Path = arguments.directory
    if arguments.ledger == "hosts":
        require_hosts()
        if arguments.keep:
            raise DemoError("hosts end with the demo: expected no --keep with them")
    with contextlib.suppress(DemoError):
        Stage(directory, 0, "").take_down()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if arguments.ledger == "hosts":
        return HostsStage(directory)
    # Two demos that begin at the same time look in different places.
    return Stage(directory, reserve_ports(PORTS), arguments.ledger)


def play(stage: Stage, arguments: argparse.Namespace) -> dict[str, Any]:
    """Bring the network up, train, audit; return the summary."""
    seed, rounds = str(arguments.seed), arguments.rounds
    data = stage.directory / "data"
    prepare = [sys.executable, "-m", "examples.heart.prepare", "--directory", str(data), "--seed", seed]
    stage.run([*prepare, *(["--apart"] if stage.ledger == "compose" else [])])
    stage.bring_up()
    if stage.ledger == "compose":
        containers.prepare(stage.directory, data, HOSPITALS, TASK, seed)
        cheat = ["--task", TASK, "--seed", seed, "--cheat-in-round", str(CHEATING_ROUND)]
        containers.prepare_cheat(
            stage.directory, CHEAT, [*cheat, "--model", "/data/model.keras", "--data", "/data/data.npz"]
        )
    stage.watch_memory()
    for organisation in COMMITTEE:
        stage.start(f"aggregator {organisation}", aggregator_command(stage, organisation), organisation)
    stage.blockfl(*task_command(stage, data, rounds), *strategy_options(arguments))
    for hospital in HOSPITALS:
        stage.start(f"institution {hospital}", institution_command(stage, hospital, data, seed), hospital)
    stage.wait([f"institution {hospital}" for hospital in HOSPITALS], timeout_s=120 + 180 * rounds)
    baselines = stage.directory / "baselines.json"
    training = ["--epochs", str(EPOCHS * rounds), "--batch-size", str(BATCH_SIZE)]
    stage.run([sys.executable, "-m", "examples.heart.baseline", "--seed", seed, *training, "--output", str(baselines)])
    summary = summarise(stage, arguments.ledger, json.loads(baselines.read_bytes()))
    (stage.directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    plot_accuracy(summary, stage.directory / "accuracy.png")
    stage.report(summary["audit"])
    return summary


def aggregator_command(stage: Stage, organisation: str) -> list[str]:
    """Return the command of a committee member's process."""
    if stage.ledger == "compose":
        return containers.run_command(stage.directory, f"aggregator-{organisation}")
    return [
        *(sys.executable, "-m", "blockfl.cli.main", "aggregator", "run"),
        *("--profile", stage.profile(organisation), "--directory", stage.state("aggregator", organisation)),
        *("--task", TASK),
    ]


def task_command(stage: Stage, data: Path, rounds: int) -> list[str]:
    """Return the command that creates the task."""
    return [
        *(
            "task",
            "create",
            TASK,
            "--profile",
            stage.profile(COORDINATOR),
            "--title",
            "Heart disease, four hospitals",
        ),
        *("--model", stage.give(COORDINATOR, data / "model.keras")),
        *("--rounds", str(rounds), "--epochs", str(EPOCHS)),
        *(
            "--batch-size",
            str(BATCH_SIZE),
            "--norm-bound",
            str(BOUND_L2),
            "--submit-seconds",
            "600",
            "--judge-seconds",
            "600",
        ),
    ]


def strategy_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options that choose the rule and the optimiser."""
    optimiser = ["--optimiser", arguments.optimiser] if arguments.optimiser else []
    return ["--rule", arguments.rule, *optimiser]


def institution_command(stage: Stage, hospital: str, data: Path, seed: str) -> list[str]:
    """Return the command of a hospital's agent; one of them is the cheat."""
    if stage.ledger == "compose":
        return containers.run_command(stage.directory, f"agent-{hospital}")
    agent = [sys.executable, "-m", "blockfl.cli.main", "institution", "run"]
    if hospital == CHEAT:
        agent = [sys.executable, "-m", "examples.heart.cheating_institution", "--cheat-in-round", str(CHEATING_ROUND)]
    return [
        *agent,
        *("--profile", stage.profile(hospital), "--task", TASK, "--seed", seed),
        *("--model", stage.give(hospital, data / "model.keras")),
        *("--data", stage.give(hospital, data / f"{hospital}.npz")),
        *("--directory", stage.state("agent", hospital)),
    ]


def summarise(stage: Stage, ledger: str, baselines: dict[str, Any]) -> dict[str, Any]:
    """Return the result, from what the ledger says."""
    audit = stage.verify()
    rounds = stage.query("audit", "rounds", "--task", TASK)
    updates = stage.query("audit", "updates", "--task", TASK)
    models = stage.query("audit", "models", "--task", TASK)
    accuracy = {model["round"]: model["accuracy"] for model in models}
    return {
        "ledger": ledger,
        "hosts": stage.hosts,
        "rounds": [
            {
                "round": row["round"],
                "accepted": row["accepted"],
                "rejected": row["rejected"],
                "seconds": row["seconds"],
                "accuracy": accuracy[row["round"]],
                "norm_bits": {
                    one["organisation"]: one["norm_l2_squared_bits"] for one in updates if one["round"] == row["round"]
                },
            }
            for row in rounds
        ],
        "accuracy": {"federated": models[-1]["accuracy"], **baselines},
        "model_digests": {name: report["digest"] for name, report in models[-1]["reports"].items()},
        "audit": {key: audit[key] for key in AUDITED},
        "strategy": stage.query("audit", "tasks")[0]["strategy"],
        "sum": check_sum(stage, rounds[-1]["round"]),
        "ledger_bytes_per_update": round(audit["ledger_bytes"] / len(updates)),
        "peak_rss_mb": {name: round(peak, 1) for name, peak in sorted(stage.peak_rss.items())},
    }


def check_sum(stage: Stage, number: int) -> dict[str, Any] | None:
    """Have an ordinary hospital verify a round's sum; without commitments only the committee can."""
    if stage.query("task", "show", TASK)["spec"]["check"] != "commitment":
        return None
    profile = ("--profile", stage.profile(HOSPITALS[0]), "--json")
    checked = json.loads(stage.blockfl("audit", "check-aggregate", TASK, str(number), *profile, by=HOSPITALS[0]))
    return {"by": HOSPITALS[0], **{key: checked[key] for key in ("verified", "round", "accepted", "sum_digest")}}


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that everything is put away."""

    def interrupt(number: int, _: object) -> None:
        raise DemoError(f"ended by signal {number}")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
