"""What is checked before an institution takes part: identity, role, tensors, samples, and its directory."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest

from blockfl.fabric.errors import EndorseError, ErrorDetail, EvaluateError
from blockfl.institution.agent import AgentSettings
from blockfl.institution.errors import SettingsError
from blockfl.institution.preparation import (
    check_role,
    check_signer,
    check_tensors,
    choose_samples,
    find_final_refusal,
)
from blockfl.institution.run import InstitutionSettings, lock_directory, run_institution
from blockfl.institution.training import Workload
from blockfl.ledger.errors import LedgerError, translate
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.model import manifest_of
from support.disk import fill, small_disk
from support.federation import make_federation
from support.world import World

FEDERATION = make_federation()


@pytest.mark.parametrize(("year", "what"), [(2040, "expired at 2036"), (2020, "is valid only from 2026")])
def test_a_certificate_that_is_not_valid_now_is_refused(year: int, what: str) -> None:
    signer = World().signers["alpha"]

    check_signer(signer, datetime(2030, 1, 1, tzinfo=UTC))
    with pytest.raises(SettingsError, match=what):
        check_signer(signer, datetime(year, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("organisation", "what"),
    [
        ("stranger", "BFL207 stranger is not a member of the consortium .*check the profile"),
        ("regulator", "BFL203 regulator is not an institution of task heart: they are alpha, beta, delta, gamma"),
    ],
)
def test_an_organisation_without_the_role_is_refused(organisation: str, what: str) -> None:
    check_role(FEDERATION.consortium, FEDERATION.task, "alpha")
    with pytest.raises(ProtocolError, match=what):
        check_role(FEDERATION.consortium, FEDERATION.task, organisation)


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"dense/kernel": (3, 5), "dense/bias": (2,)}, r"tensor 1 .* dense/kernel \(3, 4\), got dense/kernel \(3, 5\)"),
        ({"dense/kernel": (3, 4), "other": (2,)}, r"tensor 2 .* dense/bias \(2,\), got other \(2,\)"),
        ({"dense/kernel": (3, 4)}, r"tensor 2 .* dense/bias \(2,\), got nothing more"),
        ({"dense/kernel": (3, 4), "dense/bias": (2,), "more": (1,)}, r"tensor 3 .* nothing more, got more \(1,\)"),
        ({"dense/bias": (2,), "dense/kernel": (3, 4)}, r"tensor 1 .* dense/kernel \(3, 4\), got dense/bias \(2,\)"),
    ],
)
def test_the_first_tensor_that_differs_is_named(arrays: dict[str, tuple[int, ...]], what: str) -> None:
    manifest = manifest_of({name: np.zeros(shape, np.float32) for name, shape in arrays.items()})

    check_tensors(FEDERATION.task.spec, FEDERATION.task.spec.manifest)
    with pytest.raises(ProtocolError, match=f"BFL306 .*{what}"):
        check_tensors(FEDERATION.task.spec, manifest)


def test_samples_are_all_or_fewer() -> None:
    assert choose_samples(None, 100) == 100
    assert choose_samples(60, 100) == 60
    for declared in (0, 101):
        with pytest.raises(SettingsError, match="expected 1 to 100"):
            choose_samples(declared, 100)
    with pytest.raises(SettingsError, match="there are no training samples"):
        choose_samples(None, 0)


def make_refusal(status: grpc.StatusCode, message: str) -> LedgerError:
    detail = ErrorDetail(address="peer:7051", msp_id="alpha", message=message)
    error = EndorseError("cannot endorse Enrol", status=status, details=(detail,))
    translated = translate(error, "Enrol")
    translated.__cause__ = error
    return translated


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (grpc.StatusCode.UNKNOWN, "error validating proposal: access denied: channel [fed] creator org [alpha]"),
        (grpc.StatusCode.UNKNOWN, "access denied: channel [fed] creator org unknown, creator is malformed"),
        (grpc.StatusCode.PERMISSION_DENIED, "no"),
        (grpc.StatusCode.UNAUTHENTICATED, "no"),
    ],
)
def test_a_ledger_that_does_not_know_the_certificate_is_not_asked_again(status: grpc.StatusCode, message: str) -> None:
    assert find_final_refusal(make_refusal(status, message)) is not None


@pytest.mark.parametrize("message", ["connection refused", "no combination of peers can be derived", ""])
def test_a_ledger_that_is_down_is_asked_again(message: str) -> None:
    error = EvaluateError(message, status=grpc.StatusCode.UNAVAILABLE)
    translated = translate(error, "ReadTask")
    translated.__cause__ = error

    assert find_final_refusal(translated) is None


@pytest.mark.parametrize(
    ("message", "is_told"),
    [
        ("chaincode response 500, BFL302 no transaction 'ReadEvidence': see docs/protocol.md", True),
        ("chaincode response 500, BFL303 expected 1 arguments, got 2", True),
        ("chaincode response 500, BFL301 expected a number", False),
    ],
)
def test_a_contract_of_another_release_is_named(message: str, is_told: bool) -> None:
    text = str(translate(EvaluateError(message, status=grpc.StatusCode.UNKNOWN), "ReadStatus"))
    assert text.startswith(message.partition(", ")[2])
    assert ("of another release" in text) is is_told


# The directory


def test_the_directory_is_private_and_held_against_a_second_agent(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "state"
    with lock_directory(home):
        assert home.stat().st_mode & 0o777 == 0o700
        script = (
            "import sys; from pathlib import Path; from blockfl.institution.run import lock_directory\n"
            "with lock_directory(Path(sys.argv[1])): pass"
        )
        done = subprocess.run([sys.executable, "-c", script, home], capture_output=True, timeout=60, check=False)
        assert b"another agent uses this directory" in done.stderr
    with lock_directory(home):
        pass


def test_the_lock_of_a_killed_agent_is_free(tmp_path: Path) -> None:
    with lock_directory(tmp_path):
        pass
    descriptor = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.close(descriptor)  # as the kernel does for a process that dies

    with lock_directory(tmp_path):
        pass


def test_a_directory_on_a_full_disk_is_named_and_can_be_used_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 << 20):
        ballast = fill(tmp_path / "disk")
        for home in (tmp_path / "disk", tmp_path / "disk" / "new"):
            with pytest.raises(SettingsError, match=r"the disk is full: no room in .*free space"), lock_directory(home):
                pass
        ballast.unlink()
        with lock_directory(tmp_path / "disk"):
            pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(SettingsError, match="cannot be used as the agent's directory"),
        lock_directory(tmp_path / "file" / "state"),
    ):
        pass


async def test_a_missing_profile_is_named(tmp_path: Path) -> None:
    settings = InstitutionSettings(
        profile=tmp_path / "absent.json",
        directory=tmp_path / "state",
        workload=None,
        agent=AgentSettings(task="heart"),
    )
    with pytest.raises(LedgerError, match=r"absent\.json: no connection profile there"):
        await run_institution(settings)
    assert not (tmp_path / "state").exists()


def test_a_model_with_its_data_is_a_workload(tmp_path: Path) -> None:
    for name in ("model.keras", "data.npz"):
        (tmp_path / name).touch()
    workload = Workload(model=tmp_path / "model.keras", data=tmp_path / "data.npz")

    assert workload.paths == (tmp_path / "model.keras", tmp_path / "data.npz")
