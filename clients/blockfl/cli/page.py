"""``blockfl audit serve``: the verified ledger as a page in a browser."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from blockfl.audit.verification import open_evidence
from blockfl.cli.anchor import Founding, Genesis, GenesisHash, OptionalProfile, Root, read_trusted
from blockfl.cli.number import make_limits, whole_option
from blockfl.cli.output import Output
from blockfl.cli.reach import reach
from blockfl.cli.termination import run_until_terminated
from blockfl.ledger.errors import LedgerError


def serve(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Evidence bundles, in any order: nothing else is asked then.")
    ] = None,
    profile: OptionalProfile = None,
    genesis: Genesis = None,
    genesis_hash: GenesisHash = None,
    founding: Founding = None,
    root: Root = None,
    port: Annotated[
        int, whole_option(make_limits(0, 65535), "--port", help="Port on 127.0.0.1; 0: any that is free.")
    ] = 0,
) -> None:
    """Show the ledger in a browser on this machine: rounds as they happen, verdicts, models, credits, every block.

    Nothing is shown that was not verified here, from the first block that you trust. The page only reads. The printed
    address holds a token that is drawn anew each time: any user of this machine who has it can read the page.
    """
    anchor = read_trusted(profile, genesis, genesis_hash, founding, root)
    output = Output(as_json=False)
    asyncio.run(run_until_terminated(_serve(bundles, profile, anchor, port, output)))


async def _serve(bundles: list[Path] | None, profile: Path | None, anchor: bytes, port: int, output: Output) -> None:
    try:
        # The web server is an extra: an auditor without the page does not need it.
        from blockfl.page.serve import serve as serve_page
        from blockfl.page.source import BundleSource, LiveSource
        from blockfl.page.watch import Watch
    except ImportError as error:
        raise LedgerError(f"the page needs the extra `page`: pip install 'blockfl[page]' ({error})") from error

    def announce(address: str) -> None:
        output.line(f"open {address}")
        output.progress("Ctrl-C ends it")

    if bundles:
        with open_evidence(bundles) as opened:
            await serve_page(Watch(BundleSource(opened.evidence), anchor), port, announce)
        return
    if profile is None:
        raise LedgerError("name evidence bundles, or a connection profile with --profile or in BLOCKFL_PROFILE")
    async with reach(profile) as ledger:
        await serve_page(Watch(LiveSource(ledger), anchor), port, announce)
