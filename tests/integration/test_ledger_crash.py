"""Real processes killed with kill -9 under load, full disks and damaged files: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from blockfl.fabric.errors import NodeError
from support.channel import CONTRACT, make_channel
from support.disk import small_disk
from support.ledger_load import values_of

TESTS = Path(__file__).parents[1]
CLIENTS = 6
KILLS = 6
DAMAGES = 60
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    tx_id: str
    key: str
    seed: int

    @classmethod
    def parse(cls, line: str) -> Acknowledged:
        tx_id, key, seed = line.split()
        return cls(tx_id=tx_id, key=key, seed=int(seed))


@contextmanager
def load(channel: Path, ledger: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    """A process that writes; killed at the end, whatever happened."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    arguments = [sys.executable, "-m", "support.ledger_load", str(channel), str(ledger), str(seed), str(CLIENTS)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)


def output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def read_acknowledged(process: subprocess.Popen[str], count: int | None) -> list[Acknowledged]:
    """Read so many acknowledgements, or until the process ends."""
    found: list[Acknowledged] = []
    while (count is None or len(found) < count) and (line := output(process).readline()).endswith("\n"):
        if line != "ready\n":
            found.append(Acknowledged.parse(line))
    return found


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    make_channel().save(tmp_path / "channel")
    return tmp_path / "channel"


def verify(directory: Path, acknowledged: list[Acknowledged]) -> None:
    """Everything acknowledged is there, public and private, at every member."""
    with ChannelLedger.open(directory) as ledger, ledger.snapshot("alpha", "beta") as view:
        for entry in acknowledged:
            status = ledger.transaction(entry.tx_id)
            assert status is not None
            assert status.code == 0
            public, private = values_of(entry.seed)
            found = view.get(CONTRACT, entry.key)
            assert found is not None
            assert found.value == public
            for name in ("alpha", "beta") if entry.seed % 2 == 0 else ():
                held = view.private_get(name, CONTRACT, "sealed", entry.key)
                assert held is not None
                assert held.value == private


def test_kill_9_under_load_loses_nothing_acknowledged(tmp_path: Path, channel: Path) -> None:
    generator = random.Random(7)
    acknowledged: list[Acknowledged] = []
    for round_number in range(KILLS):
        with load(channel, tmp_path / "ledger", round_number) as process:
            # Each time at another point of what is going on: the kill comes with the n-th acknowledgement.
            acknowledged += read_acknowledged(process, generator.randrange(5, 60))
            process.send_signal(signal.SIGKILL)
            acknowledged += read_acknowledged(process, None)
            assert process.wait() == -signal.SIGKILL
        verify(tmp_path / "ledger", acknowledged)
    assert len(acknowledged) > 5 * KILLS


def test_kill_9_while_the_ledger_is_created_or_recovers_leaves_one_that_opens(tmp_path: Path, channel: Path) -> None:
    for step in range(8):
        with load(channel, tmp_path / "ledger", step) as process, suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.35 + 0.05 * step)
    with load(channel, tmp_path / "ledger", 99) as process:
        acknowledged = read_acknowledged(process, 20)
        process.send_signal(signal.SIGKILL)
        acknowledged += read_acknowledged(process, None)
    verify(tmp_path / "ledger", acknowledged)
    assert len(acknowledged) >= 20


def test_a_full_disk_stops_the_process_with_a_clear_error_and_loses_nothing(tmp_path: Path, channel: Path) -> None:
    with small_disk(tmp_path / "disk", 12 * MIB):
        ledger = tmp_path / "disk" / "ledger"
        with load(channel, ledger, 1) as process:
            acknowledged = read_acknowledged(process, None)
            _, error = process.communicate()
            assert process.returncode == 1
        assert "no room to write" in error
        assert "free space" in error
        assert "Traceback" not in error
        assert len(acknowledged) > 5
        # More room, as an operator would make: the same files on a larger disk.
        shutil.copytree(ledger, tmp_path / "larger")
    verify(tmp_path / "larger", acknowledged)
    with load(channel, tmp_path / "larger", 2) as process:
        acknowledged += read_acknowledged(process, 10)
        process.send_signal(signal.SIGKILL)
        process.wait()
    verify(tmp_path / "larger", acknowledged)


def test_a_changed_byte_in_any_file_of_a_crashed_node_is_named_or_harmless(tmp_path: Path, channel: Path) -> None:
    """Write-ahead logs included: what they lose is made again from the blocks, or noticed."""
    ledger = tmp_path / "ledger"
    with load(channel, ledger, 5) as process:
        acknowledged = read_acknowledged(process, 40)
        process.send_signal(signal.SIGKILL)
        acknowledged += read_acknowledged(process, None)
    generator = random.Random(8)
    files = [path for path in sorted(ledger.rglob("*")) if path.is_file() and path.stat().st_size]
    assert {path.name.rpartition(".")[2] for path in files} >= {"blocks", "sqlite", "sqlite-wal"}
    named = 0
    for round_number in range(DAMAGES):
        copy = tmp_path / "copy"
        shutil.copytree(ledger, copy)
        path = copy / generator.choice(files[round_number % len(files) :]).relative_to(ledger)
        content = bytearray(path.read_bytes())
        position = generator.randrange(len(content))
        content[position] ^= 1 << generator.randrange(8)
        path.unlink()  # It may be a second name of another organisation's file.
        path.write_bytes(content)
        if fault := fault_of(copy, acknowledged):
            assert str(path).removesuffix("-wal").removesuffix("-shm") in fault
            named += 1
        shutil.rmtree(copy)
    assert named > DAMAGES // 3


def fault_of(directory: Path, acknowledged: list[Acknowledged]) -> str | None:
    """What is wrong with a ledger; None when everything acknowledged is there."""
    try:
        verify(directory, acknowledged)
    except NodeError as error:
        return str(error)
    return None


@pytest.mark.parametrize("pattern", ["*.blocks", "state.sqlite", "alpha/private.sqlite", "*/payloads/*/*"])
def test_a_missing_file_is_named_or_made_again(tmp_path: Path, channel: Path, pattern: str) -> None:
    ledger = tmp_path / "ledger"
    with load(channel, ledger, 6) as process:
        acknowledged = read_acknowledged(process, 40)
        process.send_signal(signal.SIGKILL)
        acknowledged += read_acknowledged(process, None)
    verify(ledger, acknowledged)
    path = sorted(path for path in ledger.rglob(pattern) if path.is_file())[0]
    path.unlink()
    if pattern == "state.sqlite":
        verify(ledger, acknowledged)
    else:
        with pytest.raises(NodeError, match=path.name):
            verify(ledger, acknowledged)


def test_memory_stays_bounded_while_large_private_data_pass_through(tmp_path: Path) -> None:
    """A hundred chunks of 4 MiB, four at a time: the process needs a part of their 400 MiB."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from blockfl.fabric.embedded.ordering.ledger import ChannelLedger\n"
        "from support.channel import PrivateWrites, load_channel\n"
        "async def main():\n"
        "    channel = load_channel(Path(sys.argv[1]))\n"
        "    with ChannelLedger.open(Path(sys.argv[2]), channel.genesis, orderer=channel.orderer) as ledger:\n"
        "        await ledger.order(channel.define('sealed').envelope)\n"
        "        async def put(number):\n"
        "            value = number.to_bytes(4, 'big') * (1 << 20)\n"
        "            writes = [PrivateWrites(collection='sealed', values={f'k{number}': value})]\n"
        "            endorsed = channel.write({}, private=writes)\n"
        "            names = ('alpha', 'beta')\n"
        "            await asyncio.gather(*[ledger.stage_private(n, endorsed.tx_id, endorsed.sets) for n in names])\n"
        "            assert (await ledger.order(endorsed.envelope)).code == 0\n"
        "        for start in range(0, 100, 4):\n"
        "            await asyncio.gather(*[put(number) for number in range(start, start + 4)])\n"
        # Not getrusage: its maximum begins with the memory of whoever started the process.
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    print(next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) // 1024)\n"
        "asyncio.run(main())\n"
    )
    make_channel().save(tmp_path / "channel")
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    arguments = [sys.executable, "-c", script, str(tmp_path / "channel"), str(tmp_path / "ledger")]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250


def test_the_ledger_is_usable_from_a_loop_that_comes_after_another_one(tmp_path: Path) -> None:
    channel = make_channel()
    with ChannelLedger.open(tmp_path / "ledger", channel.genesis, orderer=channel.orderer) as ledger:
        for number in range(3):
            assert asyncio.run(ledger.order(channel.write({f"k{number}": b"v"}).envelope)).block_number == number + 1
