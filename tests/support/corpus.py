"""The corpus: what a real peer said of each case, and the same asked of our validation.

`make corpus` records it anew with a real peer, `make parity` replays it and writes build/parity/summary.json.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from blockfl.fabric.channel.block import build_block, code_name, verify_data
from blockfl.fabric.errors import FabricError
from blockfl.fabric.validate import SignatureCache, validate_block
from support.corpus_cases import COUNTS, make_case, set_up
from support.corpus_world import corpus_config, corpus_genesis
from support.go_comparison import MAKERS, count_differences
from support.scratch_ledger import ScratchLedger

DIRECTORY: Final = Path(__file__).parents[1] / "recordings" / "corpus"
SUMMARY: Final = Path("build/parity/summary.json")
STOPPED: Final = 253
"""In place of a code: the peer did not survive the case, or never answered."""
REFUSED: Final = 252
"""In place of a code: the whole block, or the configuration, is refused."""
TAKEN: Final = 0
_DIGEST_BYTES: Final = 4
_ENTRY_BYTES: Final = 1 + _DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a peer said of a case, and by what its bytes are known again."""

    kind: str
    number: int
    code: int
    digest: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A case of which we say something else than the peer."""

    kind: str
    number: int
    recorded: int
    found: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number}: the peer says {describe(self.recorded)}, we say {describe(self.found)}"


def describe(code: int) -> str:
    return {REFUSED: "refused", STOPPED: "nothing any more"}.get(code) or code_name(code)


def digest_of(case: bytes) -> bytes:
    """By what a case's bytes are known again."""
    return hashlib.sha256(case).digest()[:_DIGEST_BYTES]


def list_cases() -> Iterator[tuple[str, int]]:
    """Every case's kind and number, in the order of the recording."""
    return ((kind, number) for kind, count in COUNTS.items() for number in range(count))


def write_verdicts(verdicts: list[Verdict], fabric: str) -> None:
    """Write a recording."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    packed = b"".join(bytes((one.code,)) + one.digest for one in verdicts)
    (DIRECTORY / "verdicts.bin.gz").write_bytes(gzip.compress(packed, 9, mtime=0))
    counted = {kind: sum(1 for one in verdicts if one.kind == kind) for kind in COUNTS}
    codes = Counter(describe(one.code) for one in verdicts)
    about = {"fabric": fabric, "cases": counted, "codes": dict(sorted(codes.items()))}
    (DIRECTORY / "about.json").write_text(json.dumps(about, indent=1) + "\n")


@cache
def recorded_verdicts() -> tuple[Verdict, ...]:
    """The recording, case by case."""
    packed = gzip.decompress((DIRECTORY / "verdicts.bin.gz").read_bytes())
    counted: dict[str, int] = json.loads((DIRECTORY / "about.json").read_text())["cases"]
    places = [(kind, number) for kind, count in counted.items() for number in range(count)]
    entries = [packed[at : at + _ENTRY_BYTES] for at in range(0, len(packed), _ENTRY_BYTES)]
    return tuple(
        Verdict(kind, number, entry[0], entry[1:]) for (kind, number), entry in zip(places, entries, strict=True)
    )


@cache
def base_ledger() -> ScratchLedger:
    """The ledger on which every case is judged, each for itself."""
    ledger = ScratchLedger(corpus_config())
    genesis = validate_block(corpus_genesis(), corpus_config(), ledger.state)
    ledger.state.apply(genesis.updates, genesis.tx_ids)
    for envelope in set_up():
        assert ledger.commit(envelope).codes == (TAKEN,)
    return ledger


_SIGNATURES: Final = SignatureCache()


def judge(envelope: bytes) -> int:
    """The code that we give to a case."""
    ledger = base_ledger()
    try:
        block: Any = build_block(ledger.height, b"", [envelope])
        verify_data(block)
        (code,) = validate_block(block, ledger.config, ledger.state, signatures=_SIGNATURES).codes
    except FabricError:
        return REFUSED
    return code


def replay(every: int = 1) -> tuple[int, list[Difference]]:
    """Judge the recorded cases, or every so many of them.

    Returns:
        How many, and those that we judge otherwise.
    """
    cases, differences = 0, []
    for verdict in recorded_verdicts()[::every]:
        case = make_case(verdict.kind, verdict.number)
        assert digest_of(case) == verdict.digest, "the cases are others than those recorded: make corpus"
        cases += 1
        if verdict.code == STOPPED:
            continue
        found = judge(case)
        if found != verdict.code:
            differences.append(Difference(kind=verdict.kind, number=verdict.number, recorded=verdict.code, found=found))
    return cases, differences


def main() -> None:
    """Replay the recording; write what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=0, help="how many inputs of each kind to compare with Go")
    inputs: int = parser.parse_args().inputs
    cases, differences = replay()
    for difference in differences:
        print(difference)
    summary = {"cases": cases, "differences": len(differences)}
    if inputs:
        compared = {kind: count_differences(kind, inputs, seed=secrets.randbits(64)) for kind in MAKERS}
        summary |= {"cases": cases + inputs * len(compared), "differences": len(differences) + sum(compared.values())}
    SUMMARY.parent.mkdir(parents=True, exist_ok=True)
    SUMMARY.write_text(json.dumps(summary) + "\n")
    print(f"{summary['cases']} cases, {summary['differences']} differences ({SUMMARY})")
    if summary["differences"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
