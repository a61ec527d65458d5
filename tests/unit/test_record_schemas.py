"""What each field of a record takes is part of its format: no limit changes, or is left out, by accident.

After a deliberate change: ``PYTHONPATH=tests .venv/bin/python -m support.vectors``, and read what changed.
"""

from __future__ import annotations

import json

import pytest

from support.vectors import DIRECTORY, describe_limits, list_record_kinds

KINDS = list_record_kinds()
SCHEMAS = json.loads((DIRECTORY / "schemas.json").read_text())


@pytest.mark.parametrize("name", KINDS)
def test_a_record_takes_what_it_is_documented_to_take(name: str) -> None:
    assert describe_limits(KINDS[name]) == SCHEMAS[name]


def test_every_kind_of_record_is_there() -> None:
    assert set(SCHEMAS) == set(KINDS)
    assert {"Task", "TaskSpec", "Round", "Header", "Update", "Economics", "Median", "TensorBound"} <= set(KINDS)


def test_limits_are_told() -> None:
    weight_cap = SCHEMAS["TaskSpec"]["fields"]["weight_cap"]
    assert (weight_cap["minimum"], weight_cap["maximum"]) == (1, 255)
    assert SCHEMAS["Enrolment"]["fields"]["organisation"]["pattern"]
