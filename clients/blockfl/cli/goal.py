"""The options that say what a task goes by: its best version, and when it stops because nothing gets better.

``--best auc:max --patience 5 --min-delta 0.001``.
"""

from decimal import Decimal
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from blockfl.cli.number import MICRO, limits_of, real_option, whole_option
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.goal import Goal

REPORT_S = 300

Best = Annotated[
    str | None,
    typer.Option(
        "--best",
        metavar="METRIC:max|min",
        help="Compare versions by a metric that the institutions report, such as auc:max or loss:min: by its median, "
        "weighted as in a round, on record. task export --version best goes by it.",
    ),
]
Patience = Annotated[
    int,
    whole_option(
        limits_of(Goal, "patience"),
        help="With --best: end the task after so many versions in a row that are no improvement; 0: never.",
    ),
]
MinDelta = Annotated[
    Decimal,
    real_option(limits_of(Goal, "min_delta_micro"), help="An improvement is by more than this."),
]
ReportSeconds = Annotated[
    int,
    whole_option(
        limits_of(Goal, "report_s"),
        help="With --best: how long the next round waits for reports on a version.",
    ),
]


def parse_goal(best: str | None, patience: int, min_delta: Decimal, report_seconds: int) -> Goal | None:
    """Return the goal that the options say, None without ``--best``.

    Raises:
        LedgerError: They say none, or patience without a metric.
    """
    if best is None:
        if patience or min_delta:
            raise LedgerError("--patience and --min-delta need a metric: give --best, such as --best loss:min")
        return None
    metric, _, better = best.rpartition(":")
    fields: dict[str, Any] = {
        "metric": metric,
        "better": better,
        "patience": patience,
        "min_delta_micro": int(min_delta * MICRO),
        "report_s": report_seconds,
    }
    try:
        return Goal.model_validate(fields)
    except ValidationError as error:
        raise LedgerError(f"--best {best[:100]}: expected METRIC:max or METRIC:min, such as auc:max") from error
