"""Processes by pid and start time, and the keeper that starts them again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from blockfl.network.errors import NetworkError
from blockfl.network.keeper import KEEPER, Keeper, keeper_process, rotate_log
from blockfl.network.process import ProcessSpec, ProcessTable, require_unused
from blockfl.network.status import process_status
from support.disk import fill, small_disk

WAIT_S = 20.0
SLEEPER = "import os, time; print('here', os.environ.get('GREETING'), flush=True); time.sleep(600)"


def spec(name: str = "one", code: str = SLEEPER, **environment: str) -> ProcessSpec:
    return ProcessSpec(name=name, command=[sys.executable, "-c", code], environment=environment)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ProcessTable]:
    processes = ProcessTable(tmp_path)
    yield processes
    processes.stop(processes.names(), timeout_s=1)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def kill(processes: ProcessTable, name: str) -> int:
    """kill -9; returns the pid, and only when the process is gone."""
    process = processes.find(name)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: processes.find(name) is None)
    return process.pid


def test_a_process_runs_apart_with_its_environment_and_log(table: ProcessTable) -> None:
    assert table.start(spec(GREETING="hello"))
    wait_until(lambda: "here hello" in table.tail("one"))
    process = table.find("one")
    assert process is not None
    assert os.getsid(process.pid) == process.pid, "it must outlive the terminal"
    assert table.state("one") == "running"


def test_what_this_process_was_given_is_not_passed_on(table: ProcessTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREETING", "a secret")
    table.start(spec())
    wait_until(lambda: "here None" in table.tail("one"))


def test_a_running_process_is_not_started_twice(table: ProcessTable) -> None:
    table.start(spec())
    first = table.find("one")
    assert not table.start(spec())
    assert first is not None
    assert table.find("one") == first


def test_a_process_is_replaced_when_it_was_started_otherwise_and_left_alone_when_not(table: ProcessTable) -> None:
    table.replace([spec(GREETING="hello")])
    wait_until(lambda: "here hello" in table.tail("one"))
    first = table.find("one")
    table.replace([spec(GREETING="hello")])
    assert table.find("one") == first
    table.replace([spec(GREETING="goodbye"), spec("two")])
    assert table.state("two") == "running"
    wait_until(lambda: "here goodbye" in table.tail("one"))
    assert table.find("one") not in (first, None)
    assert table.state("one") == "running"


def test_a_signal_reaches_a_process_that_runs_and_is_nothing_to_others(table: ProcessTable) -> None:
    table.signal("one", signal.SIGTERM)
    table.start(spec())
    table.signal("one", signal.SIGTERM)
    wait_until(lambda: table.state("one") == "crashed")


def test_grpc_is_quiet_in_every_process_unless_told_otherwise(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os; print('said', os.environ['GRPC_VERBOSITY'], flush=True)"
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    table.start(spec("quiet", code))
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    table.start(spec("loud", code))
    wait_until(lambda: "said ERROR" in table.tail("quiet") and "said DEBUG" in table.tail("loud"))


STARTER = """
import os, signal, sys
from pathlib import Path
from blockfl.network import process

def write(self, name, record):
    print(record.pid, flush=True)
    if sys.argv[2] == "after":
        former(self, name, record)
    os.kill(os.getpid(), signal.SIGKILL)

former = process.ProcessTable._write
process.ProcessTable._write = write
spec = process.ProcessSpec(name="one", command=[sys.executable, "-c", sys.argv[3]], environment={})
process.ProcessTable(Path(sys.argv[1])).start(spec)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_whoever_is_killed_while_starting_a_process_leaves_none_that_nobody_remembers(
    tmp_path: Path, table: ProcessTable, moment: str
) -> None:
    mark = tmp_path / "ran"
    code = f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(600)"
    command = [sys.executable, "-c", STARTER, str(tmp_path), moment, code]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    wait_until(lambda: not psutil.pid_exists(int(killed.stdout)))
    assert not mark.exists()
    assert table.start(spec()), "it can be started again"


def test_two_tables_that_start_the_same_process_at_once_start_one(tmp_path: Path, table: ProcessTable) -> None:
    barrier, started = threading.Barrier(4), []

    def start() -> None:
        other = ProcessTable(tmp_path)
        barrier.wait()
        started.append(other.start(spec()))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started.count(True) == 1


def test_stopping_is_remembered_and_differs_from_ending(table: ProcessTable) -> None:
    table.start(spec())
    assert table.stop(["one"]) == ["one"]
    assert table.state("one") == "stopped"
    assert not table.restart("one"), "what was stopped on purpose stays so"
    table.start(spec())
    kill(table, "one")
    assert table.state("one") == "crashed"
    assert table.stop(["one"]) == []


def test_a_process_that_does_not_listen_is_ended(table: ProcessTable) -> None:
    table.start(spec(code="import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEPER))
    wait_until(lambda: "here" in table.tail("one"))
    assert table.stop(["one"], timeout_s=0.2) == ["one"]
    assert table.find("one") is None


def test_a_pid_that_is_somebody_elses_now_is_never_signalled(tmp_path: Path, table: ProcessTable) -> None:
    table.start(spec())
    record = tmp_path / "run" / "one.json"
    process = table.find("one")
    assert process is not None
    record.write_text(record.read_text().replace(str(process.pid), str(os.getpid())))
    assert table.find("one") is None
    assert table.stop(["one"]) == []
    process.kill()


def test_a_process_is_known_again_whatever_the_clock_says(table: ProcessTable, monkeypatch: pytest.MonkeyPatch) -> None:
    table.start(spec())
    process = table.find("one")
    assert process is not None
    former = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: former(self) + 3600)
    assert table.state("one") == "running"
    assert not table.start(spec()), "not twice"
    assert table.stop(["one"]) == ["one"]


def test_a_process_from_before_the_machine_started_is_somebody_elses(tmp_path: Path, table: ProcessTable) -> None:
    table.start(spec())
    process = table.find("one")
    assert process is not None
    record = tmp_path / "run" / "one.json"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record.write_text(record.read_text().replace(boot, "0" * 8 + boot[8:]))
    assert table.find("one") is None
    process.kill()


def test_no_open_file_directory_or_ignored_signal_of_the_caller_is_passed_on(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = """
import os, signal, time
number, _ = os.pipe()  # the lowest that is free
print("files", sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) < number))
print("ignored", [one.name for one in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
                  if signal.getsignal(one) is signal.SIG_IGN])
print("in", os.getcwd(), flush=True)
time.sleep(600)
"""
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    ear, mouth = os.pipe()
    try:
        for number in (ear, mouth):
            os.set_inheritable(number, True)
        os.set_blocking(ear, False)
        table.start(spec(code=code))
        os.close(mouth)
        assert os.read(ear, 1) == b"", "the pipe is closed while the process runs"
    finally:
        os.close(ear)
        signal.signal(signal.SIGINT, before)
    wait_until(lambda: "in " in table.tail("one"))
    assert table.tail("one").splitlines() == ["files [0, 1, 2]", "ignored []", "in /"]


def test_a_directory_below_which_an_unknown_process_writes_is_in_use(tmp_path: Path, table: ProcessTable) -> None:
    require_unused(tmp_path)
    table.start(spec())
    process = table.find("one")
    assert process is not None
    (tmp_path / "run" / "one.json").unlink()
    with pytest.raises(NetworkError, match=rf"is in use by .*, pid {process.pid}; end them first"):
        require_unused(tmp_path)
    process.kill()
    process.wait()
    require_unused(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"pid": "1"}', "[]"])
def test_a_damaged_record_counts_as_none(tmp_path: Path, table: ProcessTable, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "one.json").write_text(content)
    assert table.find("one") is None
    assert table.state("one") == "stopped"
    assert table.start(spec())


def test_a_program_that_does_not_exist_is_named(table: ProcessTable) -> None:
    with pytest.raises(NetworkError, match=r"one: /nowhere/peer cannot be started \(No such file or directory\)"):
        table.start(ProcessSpec(name="one", command=["/nowhere/peer"], environment={}))


def test_a_crashed_process_is_told_with_its_last_words(table: ProcessTable) -> None:
    table.start(spec(code="raise SystemExit('out of luck')"))
    wait_until(lambda: table.find("one") is None)
    row = process_status(table, "one", "127.0.0.1:1")
    assert (row.state, row.pid, row.error) == ("crashed", None, "out of luck")
    with pytest.raises(NetworkError, match=r"one ended unexpectedly; .*\n.*out of luck"):
        table.require_running("one")


def test_the_keeper_starts_again_what_was_killed_as_it_was(table: ProcessTable) -> None:
    table.start(spec(GREETING="again"))
    wait_until(lambda: "here again" in table.tail("one"))
    before = kill(table, "one")
    assert Keeper(table).look(0.0) == ["one"]
    process = table.find("one")
    assert process is not None
    assert process.pid != before
    wait_until(lambda: table.tail("one").count("here again") == 2)


def test_a_note_of_a_process_and_its_record_are_not_written_over_each_other(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    rename = Path.rename

    def note(path: Path, target: Path) -> Path:
        written.append(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", note)
    table.start(spec("one"))
    table.take_note("one", "slow")
    assert len(set(written)) == 2
    assert (table.read_note("one"), table.names()) == ("slow", ["one"])
    table.take_note("one", "")
    assert table.read_note("one") == ""


def test_the_keeper_leaves_alone_what_runs_or_was_stopped(table: ProcessTable) -> None:
    table.start(spec("running"))
    table.start(spec("stopped"))
    table.stop(["stopped"])
    assert Keeper(table).look(0.0) == []


def test_the_keeper_waits_longer_for_what_keeps_ending(table: ProcessTable) -> None:
    keeper, now, started = Keeper(table), 0.0, []
    table.start(spec(code="pass"))
    while now < 100:
        wait_until(lambda: table.find("one") is None)
        if keeper.look(now):
            started.append(now)
        now += 0.25
    pauses = [later - earlier for earlier, later in pairwise(started)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0][: len(pauses)]
    assert len(pauses) >= 7


def test_the_keeper_forgets_old_troubles(table: ProcessTable) -> None:
    keeper = Keeper(table)
    table.start(spec())
    for now in (0.0, 0.5, 1.5):
        kill(table, "one")
        assert keeper.look(now) == ["one"]
    kill(table, "one")
    assert keeper.look(1.6) == []
    assert keeper.look(100.0) == ["one"]
    kill(table, "one")
    assert keeper.look(100.5) == ["one"], "it waits as short as at first"


def test_the_keeper_goes_on_when_something_cannot_be_started(tmp_path: Path, table: ProcessTable) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    table.start(ProcessSpec(name="gone", command=[str(program)], environment={}))
    wait_until(lambda: table.find("gone") is None)
    program.unlink()
    table.start(spec())
    kill(table, "one")
    assert Keeper(table).look(0.0) == ["one"]


def test_the_keeper_as_a_process_keeps_and_ends_when_asked(tmp_path: Path, table: ProcessTable) -> None:
    table.start(spec())
    table.start(keeper_process(tmp_path))
    wait_until(lambda: "keeping the processes" in table.tail(KEEPER))
    before = kill(table, "one")
    wait_until(lambda: (found := table.find("one")) is not None and found.pid != before)
    assert table.stop([KEEPER]) == [KEEPER]
    kill(table, "one")
    assert table.state("one") == "crashed"


def test_a_large_log_is_moved_aside_while_its_process_goes_on_writing(table: ProcessTable) -> None:
    code = "import sys\nwhile line := sys.argv: print('x' * 99, flush=True); __import__('time').sleep(0.001)"
    table.start(spec(code=code))
    path = table.log("one")
    for _ in range(5):
        wait_until(lambda: path.stat().st_size > 2000)
        assert rotate_log(path, limit_bytes=2000, kept=2)
    wait_until(lambda: path.stat().st_size > 0)
    assert not rotate_log(path, limit_bytes=1 << 30)
    assert path.read_bytes()[:1] == b"x", "no hole where the file was cut"
    kept = sorted(one.name for one in path.parent.glob("one.log.*"))
    assert kept == ["one.log.1", "one.log.2"]
    assert (path.parent / kept[0]).stat().st_size > 2000


def test_the_keeper_starts_what_ended_once_a_full_disk_has_space(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 1 << 20):
        table = ProcessTable(disk)
        table.start(spec(code="import time; time.sleep(600)"))
        kill(table, "one")
        ballast, keeper = fill(disk), Keeper(table)
        assert keeper.look(0.0) == []
        assert table.find("one") is None, "what cannot be remembered is not started"
        with pytest.raises(NetworkError, match=r"no note can be taken of one \(No space left on device\); free disk"):
            table.start(spec())
        ballast.unlink()
        assert keeper.look(0.1) == [], "not at once"
        assert keeper.look(1.0) == ["one"]
        assert table.find("one") is not None
        table.stop(["one"])


def test_a_log_on_a_full_disk_is_cut(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20):
        path = tmp_path / "disk" / "one.log"
        path.write_bytes(bytes(700_000))
        assert rotate_log(path, limit_bytes=1000)
        assert path.stat().st_size == 0
        assert not path.with_name("one.log.1").exists()
