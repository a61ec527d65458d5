"""A chain as long as one likes, made without a network, and what verifying it takes: `python -m support.long_chain`.

Each block holds one transaction that writes one of a few records anew, so that the state stays as small as it is while
the chain grows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from blockfl.audit.bundle import BundleWriter
from blockfl.fabric.channel.block import build_block, decode_block, encode_block, header_hash, set_commit, sign_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.validate import validate_block
from blockfl.fabric.validate.disk_state import DiskState
from support.channel import CHANNEL, CONTRACT, make_channel

_KEYS = 20


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What verifying a bundle took.

    Attributes:
        rss_bytes: The most memory that the process held.
        seconds: Of its processor's time.
    """

    rss_bytes: int
    seconds: float


def write_long_bundle(path: Path, blocks: int, value_bytes: int) -> str:
    """Write a bundle of so many blocks after block 0, each with a value so large; return block 0's hash as hex."""
    channel = make_channel()
    config, state = ChannelConfig.from_block(channel.genesis), DiskState()
    previous, commit = header_hash(channel.genesis.header), b""
    first = decode_block(encode_block(channel.genesis))
    founding = validate_block(first, config, state)
    set_commit(first, bytes(founding.codes), b"")
    state.apply(founding.updates, [])
    with BundleWriter(path) as writer:
        writer.add_block(0, encode_block(first))
        for number in range(1, blocks + 1):
            value = number.to_bytes(4, "big") * (value_bytes // 4)
            sent = channel.define() if number == 1 else channel.write({f"key/{number % _KEYS}": value})
            block = build_block(number, previous, [sent.envelope])
            validation = validate_block(block, config, state)
            assert validation.codes == (0,), validation.reasons
            commit = validation.commit_hash(commit)
            set_commit(block, bytes(validation.codes), commit)
            sign_block(block, [channel.orderer], last_config=0)
            state.apply(validation.updates, [sent.tx_id])
            writer.add_block(number, encode_block(block))
            previous = header_hash(block.header)
        writer.finish(channel=CHANNEL, contract=CONTRACT, first_block=0, previous_hash="", last_hash=previous.hex())
    return header_hash(channel.genesis.header).hex()


def measure_verification(bundle: Path, genesis_hash: str) -> Peak:
    """Verify a bundle in a process of its own, as the command does."""
    command = ["-m", "blockfl.cli.main", "audit", "verify", str(bundle), "--genesis-hash", genesis_hash]
    log = bundle.with_suffix(".log")
    with log.open("wb") as told:
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=told)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, log.read_text()
    return Peak(rss_bytes=usage.ru_maxrss * 1024, seconds=usage.ru_utime + usage.ru_stime)


def main() -> None:
    """Print what verifying chains of several lengths takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--value-bytes", type=int, default=8192)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for blocks in arguments.blocks:
            path = Path(directory) / f"{blocks}.bundle"
            genesis_hash = write_long_bundle(path, blocks, arguments.value_bytes)
            peak = measure_verification(path, genesis_hash)
            size_mb, rss_mb = path.stat().st_size / 1e6, peak.rss_bytes / 1e6
            print(f"{blocks} blocks, {size_mb:.1f} MB: {rss_mb:.1f} MB of memory, {peak.seconds:.1f} s", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
