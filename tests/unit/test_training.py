"""The agent's side of training against children that crash, hang, lie and flood; without a training library."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import psutil
import pytest

from blockfl.institution.errors import SettingsError
from blockfl.institution.frames import TrainingProgress
from blockfl.institution.rehearsal import check_participation
from blockfl.institution.training import Workload, make_manifest
from blockfl.institution.vector import encode_vector
from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.model import encode_model, manifest_of
from blockfl.protocol.table import Column, Table
from support.scenario import Scenario, make_spec
from support.scripted_training import BASE, TRAIN, fail, make_process
from support.world import World
from support.world_ledger import WorldHub


async def test_a_well_behaved_child_describes_trains_and_evaluates(tmp_path: Path) -> None:
    script = """
        begin()
        head, body = receive()
        asked = {"kind": "train", "epochs": 2, "batch_size": 4, "learning_rate": None, "seed": 1, "round": 1}
        asked |= {"proximal": 0.0, "class_weights": [], "optimiser": None, "resumes": False}
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
FITS = f"""{CHECKED}
    send({{"kind": "rehearsed", "samples": 3, "loss": 0.25}}, bytes(12))
    assert receive()[0]["kind"] == "initial"
    send({{"kind": "values"}}, bytes(12))
    sys.stdin.buffer.read()
"""
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
        text = await fail(training, r"ended with signal SIGSEGV; its last lines:\n  one line\n")
        assert "\x1b" not in text

        values, _ = await training.train(BASE, TRAIN)
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
        await fail(training, "ended with status 0")
        await fail(training, "others than before")


async def test_a_child_that_hangs_is_killed(tmp_path: Path) -> None:
    script = """
        begin()
        receive()
        time.sleep(3600)
    """
    async with make_process(tmp_path, script, timeout_s=1.0) as training:
        await training.describe()
        pid = training.pid
        await fail(training, "said nothing for 1 s and was killed")

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
        work = asyncio.create_task(training.train(BASE, TRAIN, lambda _: started.set()))
        await started.wait()
        assert training.pid is not None
        family = [psutil.Process(training.pid), *psutil.Process(training.pid).children(recursive=True)]
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    assert len(family) == 2
    assert psutil.wait_procs(family, timeout=10)[1] == []


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
        await fail(training, "training failed: ValueError: bad batch")
        pid = training.pid
        await training.train(BASE, TRAIN)
        assert training.pid == pid is not None


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
