"""What verifying a ledger costs: transactions for each second of processor time, over the recorded real ledger.

python -m benchmarks.verification [--repeats 9]

Each repetition is a process of its own that has nothing in memory and verifies the whole chain: hashes, signatures of
ordering nodes, every transaction anew, state and commit hashes. To compare two states of the code, run it in turns with
PYTHONPATH naming the one or the other.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import subprocess
import sys
import time
from pathlib import Path

from fabric_protos.common import common_pb2

from blockfl.audit.chain import ChainProof
from blockfl.fabric.channel.block import header_hash

_BLOCKS = Path(__file__).parents[1] / "tests" / "recordings" / "bft" / "blocks.bin.gz"


def verify_once() -> float:
    """Verify the recorded ledger; return its transactions for each second of this process' time."""
    encoded, blocks = gzip.decompress(_BLOCKS.read_bytes()), []
    while encoded:
        end = 4 + int.from_bytes(encoded[:4], "big")
        blocks.append(common_pb2.Block.FromString(encoded[4:end]))
        encoded = encoded[end:]
    began = time.process_time()
    proof = ChainProof(genesis_hash=header_hash(blocks[0].header), namespace="app")
    for block in blocks:
        proof.add(block)
    return proof.transactions / (time.process_time() - began)


def measure(repeats: int) -> list[float]:
    """The same in fresh processes, one after the other."""
    command = [sys.executable, "-m", "benchmarks.verification", "--repeats", "0"]
    return [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(repeats)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9, help="how many processes; 0: here, and only the figure")
    repeats: int = parser.parse_args().repeats
    if not repeats:
        print(verify_once())
        return
    figures = measure(repeats)
    low, middle, high = min(figures), statistics.median(figures), max(figures)
    print(f"{middle:.0f} transactions a processor-second (median of {repeats}; {low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
