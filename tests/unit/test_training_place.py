"""Where a training child works: its environment, files, disk, memory and processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from blockfl.institution.errors import ConfinementError, TrainingError
from blockfl.institution.interpreter import make_environment
from blockfl.institution.training_limits import TrainingLimits
from support.disk import small_disk
from support.scripted_training import BASE, TRAIN, fail, make_process


@pytest.mark.parametrize(
    ("use", "limits", "what"),
    [
        ("hoard = bytes(b'x') * (256 << 20)", {"memory_bytes": 128 << 20}, "GiB of memory, more than 0.125"),
        ("open('large', 'wb').write(b'x' * (32 << 20))", {"scratch_bytes": 16 << 20}, "GiB into .*, more than 0.0156"),
        ("[os.fork() or time.sleep(600) for _ in range(4)]", {"processes": 3}, "ran 5 processes, more than 3"),
    ],
    ids=["memory", "disk", "processes"],
)
async def test_training_that_uses_more_than_it_may_is_killed_and_told_what_of(
    tmp_path: Path, use: str, limits: dict[str, Any], what: str
) -> None:
    script = f"begin()\nreceive()\n{use}\ntime.sleep(600)\n"
    async with make_process(tmp_path, script, limits=TrainingLimits(**limits)) as training:
        await training.describe()
        await fail(training, f"{what}.* and was killed")


async def test_a_child_that_floods_the_log_fills_neither_memory_nor_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
        begin()
        receive()
        for _ in range(64):
            os.write(2, b"x" * (1 << 20))
        os.write(2, b"\\nthe end")
        os._exit(3)
    """
    monkeypatch.setattr("blockfl.institution.log._LIMIT_BYTES", 1 << 20)
    async with make_process(tmp_path, script) as training:
        text = await fail(training, "ended with status 3")
    assert text.endswith("the end")
    assert len(text) < 10_000
    assert (tmp_path / "state" / "training.log").stat().st_size <= 1 << 20


async def test_a_refusal_to_be_confined_says_what_to_do(tmp_path: Path) -> None:
    script = """
        receive()
        send({"kind": "failed", "reason": "confinement", "message": "this kernel offers no Landlock"})
    """
    async with make_process(tmp_path, script) as training:
        with pytest.raises(ConfinementError, match=r"this kernel offers no Landlock\. .*--unconfined"):
            await training.describe()


async def test_the_child_gets_a_fresh_environment_and_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKFL_PROFILE", "/secret/profile.json")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    script = """
        print(json.dumps(dict(os.environ)))
        print(json.dumps(sorted(os.listdir("/proc/self/fd"), key=int)))
        print(os.getcwd(), os.getsid(0) == os.getpid(), flush=True)
        begun = begin()
        print(json.dumps(begun), flush=True)
        receive()
        send(TRAINED, bytes(12))
    """
    keep = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(keep, True)
    try:
        async with make_process(tmp_path, script) as training:
            await training.train(BASE, TRAIN)
    finally:
        os.close(keep)

    environment, descriptors, place, begun = (tmp_path / "state" / "training.log").read_text().splitlines()
    assert "secret" not in environment
    assert "BLOCKFL" not in environment
    assert '"OMP_NUM_THREADS": "2"' in environment
    assert f'"HOME": "{tmp_path}/state/scratch"' in environment
    # The pipes, the copy of standard output made above, and the directory being listed.
    assert descriptors == '["0", "1", "2", "3", "4"]'
    assert place == f"{tmp_path}/state/scratch True"
    assert f'"private": ["{tmp_path}/state"]' in begun
    assert '"confined": true' in begun


async def test_a_relative_directory_means_the_same_to_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    process = make_process(Path(), "print(os.environ['TMPDIR'], flush=True)\nbegin()\nreceive()\n")
    process.script = process.script.resolve()
    async with process as training:
        await training.describe()

    assert (tmp_path / "state" / "training.log").read_text().splitlines()[0] == f"{tmp_path}/state/scratch"


def test_the_environment_names_nothing_of_the_agents() -> None:
    made = make_environment(Path("/scratch"), {"BLOCKFL_PROFILE": "p", "HOME": "/home/me", "KERAS_BACKEND": "jax"})

    assert made["HOME"] == "/scratch"
    assert made["KERAS_BACKEND"] == "jax"
    assert not [name for name in made if name.startswith("BLOCKFL")]


@pytest.mark.parametrize(
    ("gpu", "named", "seen"), [(False, "1", ""), (True, "1", "1"), (True, None, None), (False, None, "")]
)
def test_gpus_are_seen_where_the_institution_says_so(gpu: bool, named: str | None, seen: str | None) -> None:
    agent = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    made = make_environment(Path("/scratch"), agent | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, gpu=gpu)

    assert made.get("CUDA_VISIBLE_DEVICES") == seen
    assert ("CUDA_DEVICE_ORDER" in made) == gpu


async def test_a_disk_that_is_full_is_named_and_not_the_model(tmp_path: Path) -> None:
    script = """
        receive()
        send({"kind": "began", "confined": True})
        with open("rows", "wb", buffering=0) as rows:
            try:
                while True:
                    rows.write(bytes(4096))
            except OSError as error:
                send({"kind": "failed", "reason": "model", "message": str(error)})
    """
    with small_disk(tmp_path / "disk", 2 << 20):
        process = make_process(tmp_path, script)
        process._scratch = tmp_path / "disk" / "scratch"
        with pytest.raises(TrainingError, match=rf"^the disk is full: no room in {tmp_path / 'disk'} \(No space"):
            await process.describe()
        await process.close()
