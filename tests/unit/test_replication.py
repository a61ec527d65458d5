"""The same transactions in different processes: the same bytes, whatever the process was started with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.replication import describe_outcomes, encode_calls
from support.rounds import STORIES, tell

TESTS = Path(__file__).parents[1]


def list_cpu_features() -> str:
    """What numpy would choose faster code for on this machine."""
    from numpy._core import _multiarray_umath as umath  # type: ignore[attr-defined]

    return " ".join(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name))


ENVIRONMENTS: dict[str, dict[str, str]] = {
    "one thread": {
        **{"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        **{"TZ": "UTC", "LC_ALL": "C"},
    },
    "many threads, another place": {
        **{"PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "8", "MKL_NUM_THREADS": "8"},
        **{"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"},
    },
    "an old processor": {
        **{"PYTHONHASHSEED": "7", "NPY_DISABLE_CPU_FEATURES": list_cpu_features(), "OPENBLAS_CORETYPE": "Prescott"},
        **{"TZ": "America/St_Johns", "PYTHONOPTIMIZE": "0", "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "ignore"},
    },
}


def replicate(calls: bytes, environment: dict[str, str]) -> dict[str, Any]:
    """Make the calls in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "VIRTUAL_ENV")}
    done = subprocess.run(
        [sys.executable, "-m", "support.replication"],
        input=calls,
        capture_output=True,
        check=False,
        env=inherited | {"PYTHONPATH": str(TESTS)} | environment,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", STORIES)
async def test_every_process_arrives_at_the_same_bytes(name: str) -> None:
    chronicle = await tell(name)
    outcomes = describe_outcomes(chronicle)
    assert len(outcomes) > 50
    found = {where: replicate(encode_calls(chronicle), given) for where, given in ENVIRONMENTS.items()}
    for where, one in found.items():
        different = [index for index, outcome in enumerate(one["outcomes"]) if outcome != outcomes[index]]
        assert not different, f"{where}: {chronicle.calls[different[0]].arguments[0]!r}"
        assert len(one["outcomes"]) == len(outcomes)
    processes = [one["process"] for one in found.values()]
    assert len({one["hash"] for one in processes}) == len({one["zone"] for one in processes}) == 3
    if list_cpu_features():
        assert len(processes[2]["features"]) < len(processes[0]["features"])


async def test_another_result_anywhere_is_seen() -> None:
    chronicle = await tell("what-is-not-allowed")
    said = json.loads(encode_calls(chronicle))
    said["calls"][-1]["arguments"][1] = b"{}".hex()
    found = replicate(json.dumps(said).encode(), ENVIRONMENTS["one thread"])
    assert [one != other for one, other in zip(found["outcomes"], describe_outcomes(chronicle), strict=True)] == [
        *([False] * (len(chronicle.calls) - 1)),
        True,
    ]
