"""What a call can cost a contract service at most, whatever it holds: measured in processes with hard limits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blockfl.protocol.canonical import MAX_RECORD_BYTES, MAX_RECORD_NAMES
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.records import Blob, Consortium
from blockfl.protocol.task import TaskSpec
from support.hostile import hostile_calls
from support.outer_decoders import prepared
from support.refusal import refused
from support.world import World

TESTS = Path(__file__).parents[1]
LIMITED = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are Linux's")


def run(*arguments: str) -> list[str]:
    """Run the hostile calls in a process of their own; return its lines."""
    environment = os.environ | {"PYTHONPATH": str(TESTS), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.hostile", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@LIMITED
@pytest.mark.timeout(1200)
def test_every_transaction_and_read_stays_within_its_memory_and_time_on_hostile_calls() -> None:
    functions = sorted(World().contracts["alpha"].table)
    assert run() == [f"{function}: bounded" for function in functions]


@LIMITED
@pytest.mark.slow
def test_the_limits_stop_what_is_greedy() -> None:
    memory, time = run("greedy")
    assert memory == "memory: MemoryError: "
    assert time.startswith("time: ended by signal")


def test_every_function_gets_hostile_calls_of_every_kind() -> None:
    world, _, valid = prepared()
    for function, entry in world.contracts["alpha"].table.items():
        kinds = [what for what, _, _ in hostile_calls(world, function, valid.get(function, []))]
        assert len(kinds) >= 25 * (1 + len(entry.arguments))
        if any(argument.startswith(b"{") for argument in valid.get(function, [])):
            assert [one for one in kinds if one.startswith("depth at")]


@pytest.mark.parametrize("kind", [Blob, Consortium, TaskSpec])
def test_a_record_of_too_many_bytes_or_names_is_not_even_read(kind: type[Blob]) -> None:
    with refused(Code.MALFORMED, "expected at most"):
        kind.decode(b" " * (MAX_RECORD_BYTES + 1))
    with refused(Code.MALFORMED, "expected at most"):
        kind.decode(b"{" + b",".join(b'"%d":1' % one for one in range(MAX_RECORD_NAMES + 1)) + b"}")


def test_a_million_faults_are_told_in_a_line() -> None:
    with refused(Code.MALFORMED, "20003 faults"):
        Blob.decode(b"{" + b",".join(b'"%d":1' % one for one in range(20_000)) + b"}")
    with refused(Code.MALFORMED, "chunks.0: "):
        Blob.decode(b'{"chunks":[' + b",".join([b"1"] * 100_000) + b'],"digest":"' + b"0" * 64 + b'","size_bytes":1}')
    with refused(Code.MALFORMED, f"{'a' * 200}...: "):
        Blob.decode(
            b'{"'
            + b"a" * 100_000
            + b'":1,"chunks":["'
            + b"0" * 64
            + b'"],"digest":"'
            + b"0" * 64
            + b'","size_bytes":1}'
        )


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    spec = prepared()[1].spec.encode()
    with pytest.raises(ProtocolError) as caught:
        TaskSpec.decode(spec.replace(b'"fedavg"', b'"' + b"9" * 1_000_000 + b'"'))
    assert len(str(caught.value)) < 500
