"""``task erase``: an institution has its sealed updates purged; what remains of it, the command says."""

import asyncio
from typing import Annotated

import typer

from blockfl.cli import option
from blockfl.cli.output import Output
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol.catalogue import ERASURE, MODELS, UPDATES
from blockfl.protocol.publication import find_version_without

Organisation = Annotated[
    str | None, typer.Option("--organisation", help="Whose updates, once it has asked; default: the profile's own.")
]


def erase(
    task: option.Task, profile: option.Profile, organisation: Organisation = None, json: option.Json = False
) -> None:
    """Erase an institution's sealed updates of a task: its request on record, then every chunk purged at every peer.

    The institution itself asks; afterwards a committee member may finish what is left with --organisation. The task
    must be between rounds. Name, digests, coarse norms and verdicts stay on the ledger, and the influence stays in the
    versions that its updates are part of: `blockfl task export --without` gives the last one before those.
    """
    output = Output(as_json=json)

    async def run() -> dict[str, object]:
        async with Ledger(ConnectionProfile.load(profile)) as ledger:
            return await _erase(ledger, task, organisation or ledger.organisation, output)

    done = asyncio.run(run())
    output.result(done)
    output.line(
        f"task {task}: the sealed updates of {done['organisation']} in {done['rounds']} rounds are purged. Its name, "
        "digests, coarse norms, verdicts and credits stay on the ledger; copies that a member made are not reached"
    )
    output.line(
        f"its updates are part of versions from {done['first_version']} on; version {done['version_without']} is the "
        "last without them: blockfl task export --without"
        if done["first_version"] is not None
        else "none of its updates is part of a version"
    )


async def _erase(ledger: Ledger, task: str, organisation: str, output: Output) -> dict[str, object]:
    if organisation == ledger.organisation:
        await ledger.request_erasure(task)
    until = (await ledger.read(ERASURE.key(task, organisation))).until_round
    rounds = 0
    for number in range(1, until + 1):
        if organisation not in [one.organisation for one in await ledger.read_all(UPDATES.below(task, number))]:
            continue
        await ledger.erase_update(task, number, organisation)
        rounds += 1
        output.progress(f"round {number} of {until}: purged")
    models = await ledger.read_all(MODELS.below(task))
    without = find_version_without(models, organisation)
    is_part = without < models[-1].version
    return {
        "task": task,
        "organisation": organisation,
        "until_round": until,
        "rounds": rounds,
        "first_version": without + 1 if is_part else None,
        "version_without": without,
    }
