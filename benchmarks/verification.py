"""What verifying a ledger costs: transactions for each second of processor time, over the recorded real ledger.

python -m benchmarks.verification [--repeats 9] [--bundle evidence.bundle]

Each repetition is a process of its own that has nothing in memory and verifies the whole chain: hashes, signatures of
ordering nodes, every transaction anew, state and commit hashes. Then it does so once more with all signatures known,
which is what is left for the verifying process where a second core verifies them ahead. To compare two states of the
code, run it in turns with PYTHONPATH naming the one or the other.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fabric_protos.common import common_pb2

from blockfl.audit.bundle import Bundle
from blockfl.audit.chain import ChainProof
from blockfl.fabric.channel.block import header_hash
from blockfl.fabric.validate import SignatureCache

_BLOCKS = Path(__file__).parents[1] / "tests" / "recordings" / "bft" / "blocks.bin.gz"


def read_recorded() -> tuple[list[Any], str]:
    """Return the recorded ledger's blocks, and its contract."""
    encoded, blocks = gzip.decompress(_BLOCKS.read_bytes()), []
    while encoded:
        end = 4 + int.from_bytes(encoded[:4], "big")
        blocks.append(common_pb2.Block.FromString(encoded[4:end]))
        encoded = encoded[end:]
    return blocks, "app"


def read_bundle(path: Path) -> tuple[list[Any], str]:
    """Return a bundle's blocks, from the first on, and its contract."""
    with Bundle.open(path) as bundle:
        return list(bundle.blocks()), bundle.manifest.contract


def verify_once(blocks: Sequence[Any], contract: str, signatures: SignatureCache | None = None) -> ChainProof:
    """Verify a chain; of the signatures that are known none is verified again."""
    proof = ChainProof(genesis_hash=header_hash(blocks[0].header), namespace=contract)
    proof.signatures = signatures or proof.signatures
    for block in blocks:
        proof.add(block)
    return proof


def measure_here(bundle: Path | None) -> list[float]:
    """Verify twice; return the transactions for each second of this process' time, first and with signatures known."""
    blocks, contract = read_recorded() if bundle is None else read_bundle(bundle)
    rates, signatures = [], None
    for _ in range(2):
        began = time.process_time()
        proof = verify_once(blocks, contract, signatures)
        rates.append(proof.transactions / (time.process_time() - began))
        signatures = proof.signatures
    return rates


def measure(repeats: int, bundle: Path | None) -> list[list[float]]:
    """The same in fresh processes, one after the other."""
    command = [sys.executable, "-m", "benchmarks.verification", "--repeats", "0"]
    command += [] if bundle is None else ["--bundle", str(bundle)]
    done = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(repeats))
    return [json.loads(one.stdout) for one in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="how many processes; 0: here, and only the figures")
    parser.add_argument("--bundle", type=Path, help="another ledger than the recorded one, from its first block on")
    arguments = parser.parse_args()
    if not arguments.repeats:
        print(json.dumps(measure_here(arguments.bundle)))
        return
    figures = measure(arguments.repeats, arguments.bundle)
    for what, rates in zip(("all by itself", "with signatures known"), zip(*figures, strict=True), strict=True):
        low, middle, high = min(rates), statistics.median(rates), max(rates)
        print(f"{what}: {middle:.0f} transactions a processor-second ({low:.0f} to {high:.0f} in {len(rates)} times)")


if __name__ == "__main__":
    main()
