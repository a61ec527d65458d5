"""The part of an institution that runs no peer and opens no port: keys, profiles, and nothing that runs but its agent.

Coming up, it waits until the others have registered the consortium, over the gateways that it names; what they say is
verified like everything that comes over them.
"""

import asyncio
from collections.abc import Sequence

from blockfl.fabric.client.deliver import read_height, seek_newest, sign_seek
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Signer
from blockfl.ledger.errors import LedgerError, RefusedError
from blockfl.ledger.profile import ConnectionProfile, ForeignGateway
from blockfl.ledger.remote import open_ledger
from blockfl.network.code_change import Agreement
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.identities import write_file
from blockfl.network.process import ProcessTable
from blockfl.network.runtime import ProcessRuntime, Report
from blockfl.network.status import ProcessStatus
from blockfl.protocol.catalogue import CONSORTIUM
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Consortium

_POLL_S = 0.5
_ANSWER_S = 5.0


class NoNodes:
    """The launcher of a part without nodes of its own.

    Args:
        banner: What the operator should know about it.
    """

    def __init__(self, banner: str) -> None:
        self.banner = banner

    def require(self) -> None:
        """Nothing is needed."""

    def addresses(self) -> list[tuple[str, str]]:
        """There are none."""
        return []

    def start(self) -> None:
        """There is nothing to start."""

    def wait_until_ready(self, timeout_s: float, hosts: Sequence[Host] | None = None) -> None:
        """There is nothing to wait for."""

    def status(self) -> list[ProcessStatus]:
        """There is nothing to tell."""
        return []


class GuestRuntime(ProcessRuntime):
    """What `ProcessRuntime` is for organisations with nodes.

    Args:
        host: The institution's part.
    """

    def __init__(self, host: Host) -> None:
        launcher = NoNodes(f"{host.name} runs no peer and opens no port: its agent uses the gateways of others")
        processes = ProcessTable(host.layout.directory)
        super().__init__([host], host.layout.directory, launcher, processes)
        self._host = host

    def up(self, report: Report, agreement: Agreement, timeout_s: float = 0.0) -> None:
        """Wait until the consortium is registered, and take over its record: what was founded, or came after it.

        Raises:
            NetworkError: It is not in time.
        """
        del agreement  # it runs no contract
        report(self._launcher.banner)
        record = asyncio.run(self._wait(report, timeout_s))
        if self._host.organisation.msp_id not in record.without_peer:
            raise NetworkError(
                f"the consortium's record {record.sequence} does not know {self._host.name} as a member without a peer"
            )
        write_file(self._host.layout.consortium, record.encode())
        report(f"the consortium's record {record.sequence} is on the ledger, and the ledger verifies")

    def status(self) -> list[ProcessStatus]:
        """Return how each gateway is, as seen from here."""
        profile = ConnectionProfile.load(self._host.layout.profile("agent"))
        return asyncio.run(_ask_all(profile))

    async def _wait(self, report: Report, timeout_s: float) -> Consortium:
        said: set[str] = set()

        def say(text: str) -> None:
            if text not in said:
                said.add(text)
                report(text)

        profile = ConnectionProfile.load(self._host.layout.profile("admin"))
        try:
            async with asyncio.timeout(timeout_s), open_ledger(profile, tell=say) as ledger:
                while True:
                    try:
                        return await ledger.read(CONSORTIUM.key())
                    except RefusedError as error:
                        if error.code is not Code.CONSORTIUM_UNKNOWN:
                            raise NetworkError(str(error)) from error
                        say("waiting: the others have not registered the consortium yet")
                    except LedgerError as error:
                        say(f"waiting: {error}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise NetworkError(
                f"the consortium was not registered within {timeout_s:.0f} s; run the command again to go on waiting"
            ) from error


async def _ask_all(profile: ConnectionProfile) -> list[ProcessStatus]:
    signer = profile.load_signer()
    return list(await asyncio.gather(*(_ask(one, profile.channel, signer) for one in profile.gateways)))


async def _ask(gateway: ForeignGateway, channel: str, signer: Signer) -> ProcessStatus:
    height, error = None, ""
    try:
        async with asyncio.timeout(_ANSWER_S), gateway.make_endpoint().open_channel() as opened:
            height = await read_height(opened, sign_seek(seek_newest(), channel, signer))
    except (FabricError, LedgerError) as failure:
        error = str(failure).splitlines()[0]
    except TimeoutError:
        error = f"no answer within {_ANSWER_S:g} s"
    return ProcessStatus(
        name=f"gateway-{gateway.organisation}",
        state="stopped" if error else "running",
        address=gateway.endpoint,
        pid=None,
        memory_mb=None,
        height=height,
        error=error,
    )
