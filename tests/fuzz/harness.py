"""Coverage-guided fuzzing of every decoder, with atheris: ``make fuzz RUNS=1000000``, ``make fuzz DECODER="seal"``.

One process at a time, one decoder after the other, until each has had so many inputs. Corpus and figures stay in
``build/fuzz``, so that a run that was stopped goes on where it was. What is found is kept there as ``crash-*`` or
``timeout-*`` beside the corpus, and the run fails; give such a file to look at it again:

    python -m fuzz.harness --decoder "payload" --again build/fuzz/payload/crash-0123
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "build" / "fuzz"
_BATCH: Final = 1_000_000
"""So many inputs between two notes of the figures."""
_LIMITS: Final = ("-timeout=20", "-rss_limit_mb=3000", "-print_final_stats=1", "-verbosity=0")
_EXECUTED: Final = re.compile(r"stat::number_of_executed_units:\s*([0-9]+)")


def directory_of(name: str) -> Path:
    """Where a decoder's corpus and findings are."""
    return BUILD / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def read_figures(name: str) -> dict[str, int]:
    """How many inputs a decoder has had, and how many findings there are."""
    path = directory_of(name) / "figures.json"
    found: dict[str, int] = json.loads(path.read_text()) if path.exists() else {"inputs": 0}
    findings = [one for one in directory_of(name).glob("*-*") if one.name.startswith(("crash-", "timeout-", "oom-"))]
    corpus = directory_of(name) / "corpus"
    return found | {"findings": len(findings), "corpus": len(list(corpus.iterdir())) if corpus.is_dir() else 0}


def fuzz_here(name: str, arguments: list[str]) -> None:
    """Fuzz one decoder in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["blockfl"]):
        from support.decoders import find_decoder

        decoder = find_decoder(name)

    def mutate(content: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(content, max_size))
        return decoder.damage(random, content)[:max_size]

    for seed in decoder.seeds():
        decoder.run(seed)
    options: dict[str, Any] = {"custom_mutator": mutate}
    atheris.Setup([sys.argv[0], *arguments, f"-max_len={decoder.max_bytes}"], decoder.run_quietly, **options)
    atheris.Fuzz()


def fuzz(name: str, inputs: int) -> bool:
    """Give a decoder so many inputs in all; return whether nothing was found."""
    from support.decoders import list_decoders

    place = directory_of(name)
    corpus = place / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(list_decoders()[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    while (done := read_figures(name)["inputs"]) < inputs:
        runs = min(_BATCH, inputs - done)
        command = [sys.executable, "-m", "fuzz.harness", "--here", name]
        command += [*_LIMITS, f"-runs={runs}", f"-seed={1 + done}", f"-artifact_prefix={place}/", str(corpus)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        executed = _EXECUTED.search(process.stderr)
        done += int(executed[1]) if executed else 0
        (place / "figures.json").write_text(json.dumps({"inputs": done}))
        if process.returncode or not executed:
            (place / "report.txt").write_text(process.stdout + process.stderr)
            return False
    return True


def report(names: list[str]) -> None:
    """Print a line for each decoder."""
    for name in names:
        figures = read_figures(name)
        print(
            f"{name:40} {figures['inputs']:>12,} inputs {figures['corpus']:>6} kept {figures['findings']:>3} findings"
        )


def tabulate(names: list[str]) -> None:
    """Print the figures as a Markdown table, the decoders in alphabetical order."""
    print("| decoder | inputs | kept | findings |\n|---|---|---|---|")
    for name in sorted(names, key=str.lower):
        figures = read_figures(name)
        print(f"| {name} | {figures['inputs']:,} | {figures['corpus']} | {figures['findings']} |")


def main() -> int:
    """Run the command line."""
    if sys.argv[1:2] == ["--here"]:
        fuzz_here(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--runs", type=int, default=1_000_000, help="inputs of each decoder, those of earlier runs counted"
    )
    parser.add_argument("--decoder", action="append", help="this one only; may be repeated")
    parser.add_argument(
        "--table", action="store_true", help="print the figures of earlier runs as Markdown, run nothing"
    )
    parser.add_argument("--again", type=Path, help="give the decoder this file and let it fail")
    options = parser.parse_args()
    from support.decoders import list_decoders

    decoders = list_decoders()
    names = options.decoder or list(decoders)
    if unknown := sorted(set(names) - set(decoders)):
        parser.error(f"no such decoder: {', '.join(unknown)}; there are: {', '.join(decoders)}")
    if options.again:
        print("taken" if decoders[names[0]].run(options.again.read_bytes()) else "refused")
        return 0
    if options.table:
        tabulate(names)
        return 0
    try:
        import atheris  # noqa: F401
    except ImportError:
        parser.error("atheris is missing: install the extra `fuzz` (make fuzz does)")
    good = True
    for name in names:
        passed = fuzz(name, options.runs)
        report([name])
        if not passed:
            print(f"found something: see {directory_of(name)}/report.txt", file=sys.stderr)
        good = good and passed
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
