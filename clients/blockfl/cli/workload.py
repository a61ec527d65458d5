"""Options that name what a user trains: a model with data, or code."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from blockfl.cli.number import make_limits, real_option, whole_option
from blockfl.institution.policy import LocalPolicy, read_policy
from blockfl.institution.training import Workload

Model = Annotated[Path | None, typer.Option(help="A compiled Keras 3 model (.keras).")]
Code = Annotated[
    Path | None,
    typer.Option(help="A Python file with build_model() and load_data(), or a directory with such a training.py."),
]
Python = Annotated[
    Path | None,
    typer.Option(help="The interpreter of another environment, with the packages that the code needs (bin/python)."),
]
Data = Annotated[Path | None, typer.Option(help="Samples: .npz with x_train, y_train, x_test, y_test, or .csv.")]
Label = Annotated[str | None, typer.Option(help="The label's column in a .csv file.")]
TestFraction = Annotated[
    Decimal,
    real_option(make_limits("0.000001", "0.999999"), help="The part of a .csv file's rows that is kept for testing."),
]
Unconfined = Annotated[
    bool, typer.Option("--unconfined", help="Train even where the kernel cannot confine the training process.")
]
Memory = Annotated[
    int | None,
    whole_option(make_limits(1, 65_536), help="GiB of memory that training may use; default: as much as there is."),
]
Disk = Annotated[int, whole_option(make_limits(1, 65_536), help="GiB that training may write to its scratch space.")]
Processes = Annotated[int, whole_option(make_limits(1, 65_536), help="Processes that training may run at once.")]
Gpu = Annotated[
    bool, typer.Option("--gpu", help="Let training use this machine's NVIDIA GPUs, or those of CUDA_VISIBLE_DEVICES.")
]
SharedMemory = Annotated[
    bool,
    typer.Option(
        "--shared-memory",
        help="Let training use /dev/shm (DataLoader with workers, joblib), which all processes of this user share.",
    ),
]
Silence = Annotated[
    int, whole_option(make_limits(1, 604_800), help="Seconds without a sign of progress after which training is ended.")
]
KeepOptimiser = Annotated[
    bool,
    typer.Option(
        "--keep-optimiser",
        help="Go on in each round with the optimizer's state after the one before (momentum, variances, steps), which "
        "stays with the institution; default: every round begins anew.",
    ),
]
Seed = Annotated[
    int | None, whole_option(make_limits(0), help="Makes training and rounding repeatable; for tests only.")
]


Policy = Annotated[
    Path | None,
    typer.Option(
        help="YAML with what this institution allows: tasks, code, rounds, hours, gpu, shared_memory; see "
        "institution/policy.py."
    ),
]


def choose_policy(path: Path | None) -> LocalPolicy:
    """Return the policy of a file; without one everything is allowed.

    Raises:
        SettingsError: It cannot be read, or says what is no policy.
    """
    return LocalPolicy() if path is None else read_policy(path)


def make_workload(
    model: Path | None,
    code: Path | None,
    data: Path | None,
    label: str | None,
    test_fraction: Decimal,
    python: Path | None = None,
) -> Workload:
    """Return the workload that the options name."""
    return Workload(model=model, code=code, data=data, label=label, test_fraction=float(test_fraction), python=python)
