"""``blockfl audit``: what happened, and the proof of it."""

import asyncio
import json as json_format
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypedDict, TypeVar

import typer

from blockfl.audit.aggregate import check_aggregate as check_round
from blockfl.audit.bundle import Bundle, BundleChain
from blockfl.audit.chain import ChainProof
from blockfl.audit.errors import VerificationError
from blockfl.audit.export import Export, export_evidence, find_fork
from blockfl.audit.pages import render_page, render_pdf
from blockfl.audit.report import make_report
from blockfl.audit.verification import read_anchor, verify_bundles, verify_ledger
from blockfl.cli import option, page
from blockfl.cli.anchor import (
    Founding,
    Genesis,
    GenesisHash,
    OptionalProfile,
    Root,
    find_genesis,
    parse_hash,
    read_trusted,
)
from blockfl.cli.number import make_limits, whole_option
from blockfl.cli.output import Exit, Output
from blockfl.cli.query import add_questions
from blockfl.cli.reach import reach
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile

app = typer.Typer(no_args_is_help=True)

add_questions(app)
app.command()(page.serve)

ExpectHash = Annotated[
    str | None, typer.Option("--expect-hash", help="Header hash that the last block must have, or that of --until.")
]
T = TypeVar("T")


class _End(TypedDict):
    until: int | None
    expected_hash: str | None


@app.command(name="check-aggregate")
def check_aggregate(
    task: Annotated[str, typer.Argument(help="The task.")],
    number: option.Round,
    profile: option.Profile,
    json: option.Json = False,
) -> None:
    """Check the sum of a round against the commitments of its accepted updates. Anybody can; no update is seen.

    It needs a task whose check is commitment (rule fedavg, `blockfl task show`) and a round that has a sum. With the
    check recompute only the committee can check a sum, because that takes the updates themselves.

    Exit code 0: it is their sum. 3: it is not, or a signature or record is not as it must be. 1: there was nothing to
    check: no such task or round, no commitments, no sum yet, or the ledger cannot be reached. 2: a usage error.
    """
    output = Output(as_json=json)
    report = _ask(profile, lambda ledger: check_round(ledger, task, number))
    output.result(report.as_dict())
    output.line(
        f"verified: the sum {report.sum_digest[:16]}… of round {number} of {task} is that of the "
        f"{len(report.accepted)} accepted updates ({', '.join(report.accepted)}), {report.dimension} values"
    )
    if report.renewed:
        output.line(f"certificates renewed since, their old signatures not verified here: {', '.join(report.renewed)}")


@app.command()
def verify(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Evidence bundles, in any order: nothing else is asked then.")
    ] = None,
    profile: OptionalProfile = None,
    genesis: Genesis = None,
    genesis_hash: GenesisHash = None,
    founding: Founding = None,
    root: Root = None,
    expect_hash: ExpectHash = None,
    until: Annotated[
        int | None, whole_option(make_limits(0), "--until", help="Look no further than this block.")
    ] = None,
    witness: Annotated[
        list[str] | None,
        typer.Option(help="MSPID=BUNDLE: an organisation's own bundle, which says what its peer has on record."),
    ] = None,
    json: option.Json = False,
) -> None:
    """Verify the whole ledger: chain, signatures, every transaction anew, records, every model version.

    With bundles (`blockfl audit export`) no network, peer or key is needed. You trust the first block: your own copy of
    it, its hash, or one founder's root, from which the founding file and so the first block follow. Exit code 3 when
    something is not as it must be; 4 when everything is, but the peers of most organisations have judged a transaction
    otherwise than this program, which goes by their code and names it.
    """
    output = Output(as_json=json)
    if not bundles and profile is None:
        raise LedgerError("name evidence bundles, or a connection profile with --profile or in BLOCKFL_PROFILE")
    if not bundles and witness:
        raise LedgerError(
            "--witness belongs to bundles; where a peer's record is disputed, the others' peers are asked"
        )
    anchor = read_trusted(profile, genesis, genesis_hash, founding, root)
    end = _End(until=until, expected_hash=None if expect_hash is None else parse_hash(expect_hash).hex())
    if bundles:
        heard = _parse_witnesses(witness or ())
        report = asyncio.run(verify_bundles(bundles, anchor, output.progress, witnesses=heard, **end))
    else:
        assert profile is not None
        report = _ask(profile, lambda ledger: verify_ledger(ledger, anchor, output.progress, **end))
    output.result(report.as_dict())
    for number, step in enumerate(report.steps, start=1):
        output.line(f"{number}. {step}")
    codes = ", ".join(f"{count} {code}" for code, count in sorted(report.codes.items()))
    output.line(
        f"verified: {report.blocks} blocks, {report.transactions} transactions ({codes}), "
        f"from first block {report.genesis_hash[:16]}… to {report.last_block_hash[:16]}…"
    )
    if report.findings:
        output.line(f"findings: {len(report.findings)}, each named above")
        raise typer.Exit(Exit.FINDINGS)


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="The bundle to write.")],
    profile: option.Profile,
    genesis: Genesis = None,
    since: Annotated[
        list[Path] | None,
        typer.Option(help="Earlier bundles that this one continues, and does not repeat; all of them."),
    ] = None,
    json: option.Json = False,
) -> None:
    """Write the evidence to one file: blocks, models and sums; verified on the way. It holds no key and no update.

    Tell the last block's hash apart from the file, by telephone for example: it shows whether the end was cut off.
    """
    output = Output(as_json=json)
    anchor = read_anchor(find_genesis(ConnectionProfile.load(profile), genesis))

    async def write(ledger: Ledger) -> Export:
        with ExitStack() as opened:
            earlier = [opened.enter_context(Bundle.open(one)) for one in since or ()]
            chain = ChainProof(genesis_hash=anchor, namespace=ledger.profile.contract)
            return await export_evidence(ledger, chain, path, earlier, output.progress)

    done = _ask(profile, write)
    output.result(asdict(done))
    output.line(
        f"{path}: blocks {done.first_block} to {done.last_block}, {done.payloads} payloads, {done.size_bytes} bytes"
    )
    output.line(f"last block's hash: {done.last_hash}")


@app.command()
def report(
    bundles: Annotated[list[Path], typer.Argument(help="Evidence bundles: one, and those that it continues.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write; its JSON twin goes beside it.")],
    pdf: Annotated[bool, typer.Option("--pdf", help="Write it as PDF, too.")] = False,
    profile: OptionalProfile = None,
    genesis: Genesis = None,
    genesis_hash: GenesisHash = None,
    founding: Founding = None,
    root: Root = None,
    expect_hash: ExpectHash = None,
) -> None:
    """Verify evidence and write a report on it that a person can read: one page without scripts, and JSON.

    A board reads the page; a machine reads the JSON, which says the same. Exit codes are those of `verify`.
    """
    told = Output(as_json=False)
    if output.suffix != ".html":
        raise LedgerError(f"expected an --output named .html, got {output.name}")
    expected = None if expect_hash is None else parse_hash(expect_hash).hex()
    anchor = read_trusted(profile, genesis, genesis_hash, founding, root)
    made = asyncio.run(make_report(bundles, anchor, told.progress, expected_hash=expected))
    page = render_page(made)
    files = {".html": page.encode(), ".json": json_format.dumps(made, indent=2, sort_keys=True).encode() + b"\n"}
    if pdf:
        files[".pdf"] = render_pdf(page)
    for suffix, content in files.items():
        path = output.with_suffix(suffix)
        try:
            path.write_bytes(content)
        except OSError as error:
            raise LedgerError(f"{path}: cannot be written ({error.strerror})") from error
        told.line(f"{path}: {len(content)} bytes")
    if made["verification"]["findings"]:
        raise typer.Exit(Exit.FINDINGS)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="One organisation's bundle, from the first block on.")],
    second: Annotated[Path, typer.Argument(help="Another organisation's.")],
    first_more: Annotated[list[Path] | None, typer.Option(help="Bundles that continue the first.")] = None,
    second_more: Annotated[list[Path] | None, typer.Option(help="Bundles that continue the second.")] = None,
    json: option.Json = False,
) -> None:
    """Say whether two organisations' bundles tell of one chain, or with which block it forks (exit code 3)."""
    output = Output(as_json=json)
    with ExitStack() as opened:
        left, right = (
            BundleChain([opened.enter_context(Bundle.open(path)) for path in paths])
            for paths in ([first, *(first_more or ())], [second, *(second_more or ())])
        )
        fork = find_fork(left, right)
        common = min(left.height, right.height)
    output.result({"common_blocks": common if fork is None else fork, "fork": fork})
    if fork is not None:
        raise VerificationError(f"the two chains are the same before block {fork}, and differ from there on", fork)
    output.line(f"one chain: all {common} blocks that both bundles hold are the same")


def _parse_witnesses(texts: Sequence[str]) -> dict[str, Path]:
    witnesses = {}
    for text in texts:
        msp_id, _, path = text.partition("=")
        if not (msp_id and path) or msp_id in witnesses:
            raise LedgerError(f"expected --witness MSPID=BUNDLE once for each organisation, got {text[:200]!r}")
        witnesses[msp_id] = Path(path)
    return witnesses


def _ask(profile: Path, question: Callable[[Ledger], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with reach(profile) as ledger:
            return await question(ledger)

    return asyncio.run(ask())
