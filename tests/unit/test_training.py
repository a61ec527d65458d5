"""The agent's side of training against children that crash, hang, lie and flood; without a training library."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import psutil
import pytest

from blockfl.institution.errors import ConfinementError, SettingsError, TrainingError
from blockfl.institution.frames import (
    HEAD_LIMIT_BYTES,
    PREFIX,
    Began,
    Description,
    Failed,
    FrameError,
    TensorShape,
    Train,
    TrainingProgress,
    decode_prefix,
    decode_reply,
    decode_request,
    encode_frame,
)
from blockfl.institution.interpreter import make_environment
from blockfl.institution.rehearsal import check_participation
from blockfl.institution.training import TrainingProcess, Workload, make_manifest
from blockfl.institution.training_limits import TrainingLimits
from blockfl.institution.vector import decode_vector, encode_vector
from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.model import encode_model, manifest_of
from blockfl.protocol.table import Column, Table
from support.disk import small_disk
from support.scenario import Scenario, make_spec
from support.world import World
from support.world_ledger import WorldHub

TRAIN = Train(epochs=2, batch_size=4, learning_rate=None, seed=1)

PRELUDE = """
import json, os, struct, sys, time
frames = os.fdopen(os.dup(1), "wb", buffering=0)
os.dup2(2, 1)
def receive():
    head, body = struct.unpack("<II", sys.stdin.buffer.read(8))
    return json.loads(sys.stdin.buffer.read(head)), sys.stdin.buffer.read(body)
def send(head, body=b""):
    head = json.dumps(head).encode()
    frames.write(struct.pack("<II", len(head), len(body)) + head + body)
DESCRIPTION = {"kind": "description", "tensors": [{"name": "w", "shape": [3]}], "train_samples": 9, "test_samples": 4}
TRAINED = {"kind": "trained", "samples": 9, "loss": 0.5}
def begin():
    begun = receive()[0]
    send({"kind": "began", "confined": True})
    send(DESCRIPTION)
    return begun
"""


class ScriptedProcess(TrainingProcess):
    """Starts a script instead of the trainer; what it is told is all the same."""

    script: Path

    def _make_command(self) -> tuple[str, ...]:
        return (sys.executable, "-S", str(self.script), str(os.getpid()))


def make_process(
    tmp_path: Path, script: str, timeout_s: float = 20.0, limits: TrainingLimits | None = None
) -> ScriptedProcess:
    data = tmp_path / "data.npz"
    model = tmp_path / "model.keras"
    for path in (data, model):
        path.touch()
    process = ScriptedProcess(
        Workload(model=model, data=data), directory=tmp_path / "state", timeout_s=timeout_s, seed=3, limits=limits
    )
    process.script = tmp_path / "child.py"
    process.script.write_text(PRELUDE + textwrap.dedent(script))
    return process


async def test_a_well_behaved_child_describes_trains_and_evaluates(tmp_path: Path) -> None:
    script = """
        begin()
        head, body = receive()
        asked = {"kind": "train", "epochs": 2, "batch_size": 4, "learning_rate": None, "seed": 1, "round": 1}
        asked["proximal"] = 0.0
        assert head == asked, head
        for epoch in (1, 2):
            send({"kind": "progress", "epoch": epoch, "epochs": 2, "step": 5, "steps": 5, "loss": None})
        send(TRAINED, body[::-1])
        head, body = receive()
        send({"kind": "evaluated", "accuracy": 0.75, "loss": 0.25, "samples": 4})
    """
    base = np.array([1, 2, 3], np.float32)
    told: list[TrainingProgress] = []
    async with make_process(tmp_path, script) as training:
        description = await training.describe()
        values, trained = await training.train(base, TRAIN, told.append)
        evaluated = await training.evaluate(values)

    assert (description.train_samples, make_manifest(description).dimension) == (9, 3)
    assert encode_vector(values).tobytes() == encode_vector(base).tobytes()[::-1]
    assert (trained.samples, trained.loss) == (9, 0.5)
    assert [progress.epoch for progress in told] == [1, 2]
    assert evaluated.accuracy == 0.75
    assert not (tmp_path / "state" / "scratch").exists()


CHECKED = """
    begun = begin()
    table = json.loads(begun["table"])
    assert [one["name"] for one in table["columns"]] == ["age"], table
    head, body = receive()
    assert head["kind"] == "rehearse" and head["training"]["epochs"] == 1, head
    assert not body
"""
FITS = CHECKED + '    send({"kind": "rehearsed", "samples": 3, "loss": 0.25})\n    sys.stdin.buffer.read()'
FAILS = CHECKED + '    send({"kind": "failed", "reason": "data", "message": "column age is not there"})'


@pytest.mark.parametrize(
    ("script", "organisation", "problems"),
    [
        pytest.param(FITS, "alpha", [], id="fits"),
        pytest.param(FAILS, "alpha", ["the data cannot be used: column age is not there"], id="fails"),
        pytest.param(FITS, "regulator", ["BFL203 regulator is not an institution of task heart"], id="role"),
    ],
)
async def test_a_check_reads_the_task_tries_the_samples_and_enrols_nobody(
    tmp_path: Path, script: str, organisation: str, problems: list[str]
) -> None:
    world = World()
    hub = WorldHub(world)
    table = Table(columns=(Column(name="age", kind="number"),), label=Column(name="sick", kind="number"))
    manifest = manifest_of({"w": np.zeros(3, np.float32)})
    content = encode_model(manifest, np.zeros(3, np.float32))
    changes = {"table": table, "manifest": manifest, "initial_model": split_blob(content)[0]}
    proposal = (make_spec()[0].model_copy(update=changes), content)
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys, proposal)
    await scenario.register()
    await scenario.create()
    async with make_process(tmp_path, script) as process:
        found = await check_participation(hub.ledger(organisation), "heart", process)

    assert [one[: len(two)] for one, two in zip(found.problems, problems, strict=True)] == problems
    assert (found.train_samples, found.test_samples) == ((0, 0) if problems else (9, 4))
    assert any("a dry epoch on 3 samples works: loss 0.25" in note for note in found.notes) == (not problems)
    assert await hub.ledger("alpha").read_all(catalogue.ENROLMENTS.below("heart")) == ()


async def test_what_the_user_prints_never_becomes_a_frame(tmp_path: Path) -> None:
    script = """
        begin()
        print("hello from the user", flush=True)
        os.write(1, b"raw bytes\\n")
        receive()
        send(TRAINED, bytes(12))
    """
    async with make_process(tmp_path, script) as training:
        await training.train(np.zeros(3, np.float32), TRAIN)

    log = (tmp_path / "state" / "training.log").read_text()
    assert log == "hello from the user\nraw bytes\n"
    assert (tmp_path / "state" / "training.log").stat().st_mode & 0o077 == 0


async def test_a_crash_is_told_with_the_last_lines_and_the_child_is_started_again(tmp_path: Path) -> None:
    script = """
        begin()
        receive()
        if not os.path.exists("../second"):
            open("../second", "w").close()
            print("one line", "and the last: \\x1b[31mred", sep="\\n", file=sys.stderr, flush=True)
            os.kill(os.getpid(), 11)
        send(TRAINED, bytes(12))
        receive()
    """
    async with make_process(tmp_path, script) as training:
        with pytest.raises(TrainingError, match=r"ended with signal SIGSEGV; its last lines:\n  one line\n") as caught:
            await training.train(np.zeros(3, np.float32), TRAIN)
        assert "\x1b" not in str(caught.value)

        values, _ = await training.train(np.zeros(3, np.float32), TRAIN)
        assert values.tolist() == [0, 0, 0]


async def test_a_child_that_has_another_model_after_a_restart_is_refused(tmp_path: Path) -> None:
    script = """
        if os.path.exists("../second"):
            DESCRIPTION["train_samples"] = 8
        open("../second", "w").close()
        begin()
        receive()
    """
    async with make_process(tmp_path, script) as training:
        with pytest.raises(TrainingError, match="ended with status 0"):
            await training.train(np.zeros(3, np.float32), TRAIN)
        with pytest.raises(TrainingError, match="others than before"):
            await training.train(np.zeros(3, np.float32), TRAIN)


async def test_a_child_that_hangs_is_killed(tmp_path: Path) -> None:
    script = """
        begin()
        receive()
        time.sleep(3600)
    """
    async with make_process(tmp_path, script, timeout_s=1.0) as training:
        await training.describe()
        pid = training.pid
        with pytest.raises(TrainingError, match="said nothing for 1 s and was killed"):
            await training.train(np.zeros(3, np.float32), TRAIN)

    assert pid is not None
    assert not psutil.pid_exists(pid)


async def test_cancelling_kills_the_child_and_what_it_started(tmp_path: Path) -> None:
    script = """
        begin()
        receive()
        child = os.fork()
        if child:
            print(child, flush=True)
        send({"kind": "progress", "epoch": 1, "epochs": 2, "step": 1, "steps": 5, "loss": None})
        time.sleep(3600)
    """
    async with make_process(tmp_path, script) as training:
        started = asyncio.Event()
        work = asyncio.create_task(training.train(np.zeros(3, np.float32), TRAIN, lambda _: started.set()))
        await started.wait()
        assert training.pid is not None
        family = [psutil.Process(training.pid), *psutil.Process(training.pid).children(recursive=True)]
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    assert len(family) == 2
    assert psutil.wait_procs(family, timeout=10)[1] == []


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
    tmp_path: Path, use: str, limits: dict[str, int], what: str
) -> None:
    script = f"begin()\nreceive()\n{use}\ntime.sleep(600)\n"
    async with make_process(tmp_path, script, limits=TrainingLimits(**limits)) as training:
        await training.describe()
        with pytest.raises(TrainingError, match=f"{what}.* and was killed"):
            await training.train(np.zeros(3, np.float32), TRAIN)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ('frames.write(b"not a frame at all")', "a head of"),
        ('frames.write(struct.pack("<II", 0, 0))', "a head of 0 bytes"),
        ('frames.write(struct.pack("<II", 2**32 - 1, 0))', "a head of 4294967295 bytes"),
        ('frames.write(struct.pack("<II", 10, 2**32 - 4))', "a body of 4294967292 bytes: expected 12"),
        ('send(TRAINED, bytes(8))', "a body of 8 bytes: expected 12"),
        ('send(TRAINED)', "expected Trained with 12 bytes, got Trained with 0"),
        ('send(DESCRIPTION)', "got Description"),
        ('send({"kind": "trained"}, bytes(12))', "not a message of this protocol: trained.samples"),
        ('send(TRAINED | {"loss": "0.5"}, bytes(12))', "trained.loss"),
        ('send(TRAINED | {"more": 1}, bytes(12))', "trained.more"),
        ('send({"kind": "unknown"})', "not a message"),
        ('send([[]])', "not a message"),
        ('frames.write(struct.pack("<II", 100000, 0) + b"[" * 100000)', "not a message"),
        ('frames.write(struct.pack("<II", 3, 0) + b"\\xff\\xfe\\x00")', "not a message"),
        ('send({"kind": "evaluated", "accuracy": 2.0, "loss": None, "samples": 4})', "evaluated.accuracy"),
        ('send({"kind": "progress", "epoch": 10**400, "epochs": 2, "step": 1, "steps": 5, "loss": None})', "not a"),
    ],
)  # fmt: skip
async def test_a_child_that_breaks_the_protocol_is_killed(tmp_path: Path, answer: str, what: str) -> None:
    script = f"begin()\nreceive()\n{answer}\ntime.sleep(3600)\n"
    async with make_process(tmp_path, script) as training:
        await training.describe()
        with pytest.raises(TrainingError, match="broke the protocol and was killed") as caught:
            await training.train(np.zeros(3, np.float32), TRAIN)
        assert what in str(caught.value)
        assert training.pid is None


async def test_a_body_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The child announces gigabytes and sends them as fast as it can; the agent reads none of them."""
    script = """
        begin()
        receive()
        frames.write(struct.pack("<II", 10, 2**32 - 4))
        block = bytes(1 << 20)
        while True:
            frames.write(block)
    """
    before = psutil.Process().memory_info().rss
    async with make_process(tmp_path, script) as training:
        with pytest.raises(TrainingError, match="expected 12"):
            await training.train(np.zeros(3, np.float32), TRAIN)
    assert psutil.Process().memory_info().rss - before < 64 << 20


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
        with pytest.raises(TrainingError, match="ended with status 3") as caught:
            await training.train(np.zeros(3, np.float32), TRAIN)
    assert str(caught.value).endswith("the end")
    assert len(str(caught.value)) < 10_000
    assert (tmp_path / "state" / "training.log").stat().st_size <= 1 << 20


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ('[{"name": "w", "shape": [3]}, {"name": "w", "shape": [1]}]', "names must differ"),
        ('[{"name": "w", "shape": [268435456, 2]}]', "is over"),
        ('[{"name": "w", "shape": [268435456] * 8}]', "is over"),
    ],
)
async def test_a_description_that_is_no_manifest_is_refused(tmp_path: Path, tensors: str, what: str) -> None:
    script = f"DESCRIPTION['tensors'] = {tensors}\nbegin()\nreceive()\n"
    async with make_process(tmp_path, script) as training:
        with pytest.raises(TrainingError, match=what):
            await training.describe()
        assert training.pid is None


async def test_a_refusal_to_be_confined_says_what_to_do(tmp_path: Path) -> None:
    script = """
        receive()
        send({"kind": "failed", "reason": "confinement", "message": "this kernel offers no Landlock"})
    """
    async with make_process(tmp_path, script) as training:
        with pytest.raises(ConfinementError, match=r"this kernel offers no Landlock\. .*--unconfined"):
            await training.describe()


async def test_a_failed_request_leaves_the_child_running(tmp_path: Path) -> None:
    script = """
        begin()
        receive()
        send({"kind": "failed", "reason": "training", "message": "ValueError: bad batch"})
        receive()
        send(TRAINED, bytes(12))
        time.sleep(600)
    """
    async with make_process(tmp_path, script) as training:
        with pytest.raises(TrainingError, match="training failed: ValueError: bad batch"):
            await training.train(np.zeros(3, np.float32), TRAIN)
        pid = training.pid
        await training.train(np.zeros(3, np.float32), TRAIN)
        assert training.pid == pid is not None


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
            await training.train(np.zeros(3, np.float32), TRAIN)
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
    ("arguments", "what"),
    [
        ({}, "either --model"),
        ({"model": "model.keras", "code": "code.py"}, "either --model"),
        ({"model": "model.keras", "data": "absent.npz"}, r"absent\.npz: no such file"),
        ({"model": "model.keras", "test_fraction": 1.0}, "more than 0 and less than 1"),
    ],
)
def test_a_workload_that_cannot_work_is_refused(tmp_path: Path, arguments: dict[str, object], what: str) -> None:
    (tmp_path / "model.keras").touch()
    (tmp_path / "code.py").touch()
    given = {name: tmp_path / value if isinstance(value, str) else value for name, value in arguments.items()}

    with pytest.raises(SettingsError, match=what):
        Workload(**given)  # type: ignore[arg-type]


# Frames


def test_a_frame_is_read_back() -> None:
    values = np.array([0.5, -1.25, np.inf], np.float32)
    head, body = encode_frame(TRAIN, encode_vector(values))
    sizes = decode_prefix(head[: PREFIX.size])

    assert sizes == (len(head) - PREFIX.size, 12)
    assert decode_request(head[PREFIX.size :]) == TRAIN
    np.testing.assert_array_equal(decode_vector(bytes(body)), values)


def test_every_reply_is_read_back() -> None:
    for reply in (
        Began(confined=True),
        Description(tensors=(TensorShape(name="w", shape=(2, 3)),), train_samples=1, test_samples=1),
        TrainingProgress(epoch=1, epochs=2, step=3, steps=4, loss=0.5),
    ):
        assert decode_reply(encode_frame(reply)[0][PREFIX.size :]) == reply


def test_a_request_is_no_reply() -> None:
    with pytest.raises(FrameError):
        decode_reply(encode_frame(TRAIN)[0][PREFIX.size :])


def test_a_head_over_the_limit_is_neither_made_nor_read() -> None:
    with pytest.raises(FrameError, match="too large"):
        encode_frame(Failed.model_construct(kind="failed", reason="training", message="x" * HEAD_LIMIT_BYTES))
    with pytest.raises(FrameError, match="expected 1 to"):
        decode_prefix(PREFIX.pack(HEAD_LIMIT_BYTES + 1, 0))


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
