"""What an institution allows: read from its file, and refused where it says what nobody can enforce."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from blockfl.institution.errors import SettingsError
from blockfl.institution.policy import Departures, LocalPolicy, compute_code_digest, read_policy
from blockfl.institution.rehearsal import make_training
from blockfl.institution.training_limits import TrainingLimits
from blockfl.institution.workload import Workload
from blockfl.protocol.canonical import compute_digest


def read(tmp_path: Path, text: str) -> LocalPolicy:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return read_policy(path)


@pytest.mark.parametrize(
    ("hour", "waits"),
    [(19, True), (20, False), (23, False), (0, False), (5, False), (6, True), (12, False), (13, True)],
)
def test_hours_may_go_over_midnight(tmp_path: Path, hour: int, waits: bool) -> None:
    policy = read(tmp_path, 'hours: ["20:00-06:00", "12:00-13:00"]')
    found = policy.find_wait(datetime(2026, 1, 2, hour, tzinfo=UTC))
    assert found == ("the local policy trains at 20:00-06:00, 12:00-13:00 UTC: waiting" if waits else None)


def test_what_is_not_said_is_allowed(tmp_path: Path) -> None:
    policy = read(tmp_path, "{}")
    policy.check_task("anything")
    policy.check_code([tmp_path / "absent"])
    assert policy.find_limit("heart", 10**6) is None
    assert policy.find_wait(datetime.now(UTC)) is None


def test_code_is_allowed_by_its_digest_and_nothing_of_a_directory_may_change(tmp_path: Path) -> None:
    home = tmp_path / "code"
    home.mkdir()
    (home / "training.py").write_text("1")
    digest = compute_code_digest(home)
    policy = read(tmp_path, f"code: ['{digest}']")
    policy.check_code([home])
    (home / "helper.py").write_text("2")
    with pytest.raises(SettingsError, match=rf"does not allow .*code, SHA-256 {compute_code_digest(home)}: read it"):
        policy.check_code([home])
    assert compute_code_digest(home / "helper.py") == compute_digest(b"2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epsilon: 3", "nothing else can be enforced"),
        ("gpu: 2", "gpu: expected yes or no, got '2'"),
        ("rounds: many", "rounds: expected a whole number"),
        ("hours: ['8-9']", "expected spans such as 20:00-06:00"),
        ("code: [abc]", "expected SHA-256 in lower-case hex"),
        ("tasks: heart", "tasks: expected a list"),
        ("- tasks", "expected tasks, code, rounds, hours"),
        ("tasks: [", "policy.yaml, line 1: "),
        ("tasks: [heart]\ntasks: ['*']", "line 2: tasks stands here twice"),
        ("tasks: !!python/name:os.system x", "line 1: "),
    ],
)
def test_what_is_no_policy_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "asked", "given"),
    [("{}", False, False), ("{}", True, True), ("gpu: yes", False, True), ("gpu: no", False, False)],
)
def test_a_gpu_is_given_where_the_policy_or_the_start_says_so(
    tmp_path: Path, text: str, asked: bool, given: bool
) -> None:
    assert read(tmp_path, text).choose_limits(TrainingLimits(gpu=asked, processes=3)) == TrainingLimits(
        gpu=given, processes=3
    )


@pytest.mark.parametrize("name", ["gpu", "shared_memory"])
def test_a_device_that_the_policy_refuses_cannot_be_asked_for(tmp_path: Path, name: str) -> None:
    policy = read(tmp_path, f"{name}: no")
    with pytest.raises(SettingsError, match=f"the local policy says {name}: no; leave --{name.replace('_', '-')} out"):
        policy.choose_limits(TrainingLimits(**{name: True}))


@pytest.mark.parametrize(
    ("text", "limits", "words"),
    [
        ("code: []", TrainingLimits(), "does not allow .*training.py"),
        ("gpu: no", TrainingLimits(gpu=True), "leave --gpu out"),
    ],
)
def test_a_look_before_enrolling_obeys_the_policy(
    tmp_path: Path, text: str, limits: TrainingLimits, words: str
) -> None:
    code = tmp_path / "training.py"
    code.write_text("")
    with pytest.raises(SettingsError, match=words):
        make_training(Workload(code=code), tmp_path, read(tmp_path, text), limits, confined=False)


def test_updates_are_counted_by_round_also_after_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    departures = Departures(tmp_path / "left.jsonl")
    for round_ in (1, 1, 2):
        departures.add("update", "heart", round_)
    departures.add("update", "lungs", 7)
    departures.add("metrics", "heart", 9)
    with (tmp_path / "left.jsonl").open("a") as file:
        file.write('{"what": "upd')
    assert departures.count_updates("heart") == 2
    assert Departures(None).count_updates("heart") == 0
