"""The embedded node: one ledger, one endpoint per organisation, one ordering endpoint, in one process.

Owns starting, listening and stopping in the right order. Refuses identities that do not belong to their
organisation, a channel or genesis block that is not the configured one, and ports in use.

    node = EmbeddedNode(NodeSettings.load(Path("node.json")))
    await node.start()
    await node.wait()
    await node.stop()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from fabric_protos.common import common_pb2
from google.protobuf.message import DecodeError

from ..errors import IdentityError, NodeError
from ..identity import Signer
from ..policy import role_principal
from .admission import Admission
from .block_reader import BlockReader
from .contract_host import ContractHost
from .deliver_service import DeliverService
from .endorser import Endorser
from .endorser_service import EndorserService
from .gateway_service import GatewayService
from .installation import Installation
from .ledger import Ledger
from .operations_service import OperationsService
from .rpc import SERVER_OPTIONS
from .settings import EndpointSettings, NodeSettings, OrganisationSettings, read_bytes

_LOG = logging.getLogger(__name__)

BANNER = (
    "embedded node: for trying, teaching, developing and testing. It is not a consortium's ledger: whoever runs this "
    "process sees and controls every organisation. Use Hyperledger Fabric where nobody is to be trusted with that."
)
_INSTALLED = "chaincodes"
_ORDERER = ""


@dataclass(frozen=True, kw_only=True)
class _Listener:
    server: Any
    address: str


class EmbeddedNode:
    """A Fabric network of one process.

    Args:
        settings: With absolute paths, see `NodeSettings.load`.
    """

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._ledger: Ledger | None = None
        self._hosts: dict[str, ContractHost] = {}
        self._listeners: dict[str, _Listener] = {}
        self._blocks: BlockReader | None = None
        self._operations: OperationsService | None = None
        self._stopped = asyncio.Event()

    @property
    def ledger(self) -> Ledger:
        """The running node's ledger.

        Raises:
            NodeError: The node is not running.
        """
        if self._ledger is None:
            raise NodeError("the node is not running: start it first")
        return self._ledger

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where each organisation's endpoint listens, by MSP id."""
        return {name: listener.address for name, listener in self._listeners.items() if name != _ORDERER}

    @property
    def orderer_address(self) -> str:
        """Where the ordering endpoint listens."""
        return self._listeners[_ORDERER].address

    @property
    def operations_address(self) -> str | None:
        """Where /healthz and /status are answered."""
        return self._operations.address if self._operations else None

    async def start(self) -> None:
        """Opens the ledger and listens.

        Raises:
            NodeError: A file is damaged or missing, a port is in use, or an identity does not fit.
        """
        settings = self._settings
        self._ledger = self._open_ledger()
        try:
            admission = Admission(
                lambda: self.ledger.config, time_window_s=settings.time_window_s, signatures=self._ledger.signatures
            )
            await self._listen_all(admission)
        except BaseException:
            await self.stop(grace_s=0)
            raise
        _LOG.info("channel %s at height %d", settings.channel, self._ledger.height)

    async def _listen_all(self, admission: Admission) -> None:
        settings, ledger = self._settings, self.ledger
        blocks = self._blocks = BlockReader(ledger)
        endorsers = {org.msp_id: self._make_endorser(org, admission) for org in settings.organisations}
        addresses: dict[str, str] = {}
        for organisation in settings.organisations:
            msp_id = organisation.msp_id
            services = [
                GatewayService(
                    organisation=msp_id,
                    endorsers=endorsers,
                    addresses=addresses,
                    ledger=ledger,
                    admission=admission,
                    blocks=blocks,
                ).handler(),
                EndorserService(endorser=endorsers[msp_id], ledger=ledger, admission=admission).handler(),
                DeliverService(ledger=ledger, admission=admission, blocks=blocks, organisation=msp_id).peer_handler(),
            ]
            addresses[msp_id] = await self._listen(msp_id, organisation, services)
        ordering = DeliverService(ledger=ledger, admission=admission, blocks=blocks).orderer_handler()
        addresses[_ORDERER] = await self._listen(_ORDERER, settings.orderer, [ordering])
        for host in self._hosts.values():
            host.connect()
        if settings.operations_listen is not None:
            self._operations = OperationsService(settings.operations_listen, self.status)
            await self._operations.start()

    def status(self) -> dict[str, Any]:
        """Tells how the node is, for people and for `blockfl network status`."""
        ledger = self.ledger
        failure = ledger.failure
        return {
            "kind": "embedded",
            "channel": ledger.channel_id,
            "height": ledger.height,
            "error": str(failure) if failure else None,
            "orderer": self._listeners[_ORDERER].address,
            "organisations": {
                msp_id: {"address": self._listeners[msp_id].address, "contracts": dict(host.status())}
                for msp_id, host in self._hosts.items()
            },
        }

    async def wait(self) -> None:
        """Waits until the node was stopped."""
        await self._stopped.wait()

    async def stop(self, grace_s: float = 2.0) -> None:
        """Ends streams, lets running requests end, hangs up, closes the ledger.

        Args:
            grace_s: How long requests may still take.
        """
        if self._blocks is not None:
            self._blocks.stop()
        if self._operations is not None:
            await self._operations.stop()
            self._operations = None
        await asyncio.gather(*(listener.server.stop(grace_s) for listener in self._listeners.values()))
        await asyncio.gather(*(host.close() for host in self._hosts.values()))
        if self._ledger is not None:
            await asyncio.to_thread(self._ledger.close)
            self._ledger = None
        self._listeners.clear()
        self._hosts.clear()
        self._stopped.set()

    # --- inside

    def _open_ledger(self) -> Ledger:
        settings = self._settings
        try:
            genesis = common_pb2.Block.FromString(read_bytes(settings.genesis))
        except DecodeError as error:
            raise NodeError(f"expected a configuration block in {settings.genesis}, got something else") from error
        orderer = _load_signer(settings.orderer)
        ledger = Ledger.open(settings.directory / "ledger", genesis, orderer=orderer)
        try:
            if ledger.channel_id != settings.channel:
                raise NodeError(
                    f"expected the channel {settings.channel!r}, the ledger in {settings.directory} is of "
                    f"{ledger.channel_id!r}: use another directory"
                )
            _check_role(ledger, orderer, "orderer")
        except NodeError:
            ledger.close()
            raise
        return ledger

    def _make_endorser(self, organisation: OrganisationSettings, admission: Admission) -> Endorser:
        signer = _load_signer(organisation)
        _check_role(self.ledger, signer, "peer")
        host = ContractHost(execute_timeout_s=self._settings.execute_timeout_s)
        self._hosts[organisation.msp_id] = host
        directory = self.ledger.organisation_directory(organisation.msp_id) / _INSTALLED
        values = organisation.contract.values() if organisation.contract else {}
        return Endorser(
            signer=signer,
            ledger=self.ledger,
            admission=admission,
            host=host,
            installation=Installation(directory, host, values),
        )

    async def _listen(self, name: str, endpoint: EndpointSettings, services: list[Any]) -> str:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers(tuple(services))
        pair = (read_bytes(endpoint.tls_private_key), read_bytes(endpoint.tls_certificate))
        credentials = grpc.ssl_server_credentials([pair])
        try:
            port = server.add_secure_port(endpoint.listen, credentials)
        except RuntimeError as error:
            raise NodeError(
                f"cannot listen on {endpoint.listen} for {endpoint.msp_id}: is another process using the port, or are "
                f"{endpoint.tls_certificate} and {endpoint.tls_private_key} no pair?"
            ) from error
        await server.start()
        address = f"{endpoint.listen.rpartition(':')[0]}:{port}"
        self._listeners[name] = _Listener(server=server, address=address)
        _LOG.info("%s listens on %s", "the orderer" if name == _ORDERER else name, address)
        return address


def _load_signer(endpoint: EndpointSettings) -> Signer:
    try:
        return Signer.load(endpoint.msp_id, endpoint.certificate, endpoint.private_key)
    except IdentityError as error:
        raise NodeError(f"the identity of {endpoint.msp_id} cannot be used: {error}") from error


def _check_role(ledger: Ledger, signer: Signer, role: Any) -> None:
    msps = ledger.config.msps
    identity = signer.identity
    try:
        msps.validate(identity)
    except IdentityError as error:
        raise NodeError(f"the identity of {identity.msp_id} is not valid on the channel: {error}") from error
    if not msps.satisfies(identity, role_principal(identity.msp_id, role)):
        raise NodeError(
            f"expected a certificate with the role {role} for {identity.msp_id}, got "
            f"{identity.certificate.subject.rfc4514_string()}: have one issued with the unit {role}"
        )
