"""The embedded node: one ledger, one endpoint per organisation, one ordering endpoint, in one process.

Owns starting, listening and stopping in the right order. An organisation of the settings that the channel does not
have yet is served from the moment a configuration update lets it join. Refuses identities that do not belong to their
organisation, a channel or genesis block that is not the configured one, and ports in use.

    node = EmbeddedNode(NodeSettings.load(Path("node.json")))
    await node.start()
    await node.wait()
    await node.stop()
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from fabric_protos.common import common_pb2
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry

from blockfl.fabric.counters import Counters
from blockfl.fabric.embedded.endorsing.admission import Admission
from blockfl.fabric.embedded.endorsing.contract_host import ContractHost
from blockfl.fabric.embedded.endorsing.endorser import EndorsingPeer
from blockfl.fabric.embedded.endorsing.fairness import Turns
from blockfl.fabric.embedded.endorsing.installation import Installation
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from blockfl.fabric.embedded.services.block_reader import BlockReader
from blockfl.fabric.embedded.services.deliver_service import DeliverService
from blockfl.fabric.embedded.services.endorser_service import EndorserService
from blockfl.fabric.embedded.services.gateway_service import GatewayService
from blockfl.fabric.embedded.services.node_metrics import NodeMetrics
from blockfl.fabric.embedded.settings import EndpointSettings, NodeSettings, OrganisationSettings
from blockfl.fabric.errors import IdentityError, NodeError
from blockfl.fabric.identity.policy import role_principal
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.operations import OperationsService
from blockfl.fabric.reception import make_server
from blockfl.fabric.settings_file import read_bytes
from blockfl.fabric.transaction.code import code_name

_LOG = logging.getLogger(__name__)

BANNER = (
    "embedded node: for trying, teaching, developing and testing. It is not a consortium's ledger: the operator of "
    "this process sees and controls every organisation. Use Hyperledger Fabric where nobody is to be trusted with that."
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
        self._ledger: ChannelLedger | None = None
        self._hosts: dict[str, ContractHost] = {}
        self._counters: defaultdict[str, Counters] = defaultdict(Counters)
        self._listeners: dict[str, _Listener] = {}
        self._turns = Turns()
        self._blocks: BlockReader | None = None
        self._operations: OperationsService | None = None
        self._admission: Admission | None = None
        self._endorsers: dict[str, EndorsingPeer] = {}
        self._addresses: dict[str, str] = {}
        self._waiting: dict[str, OrganisationSettings] = {}
        self._follower: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def ledger(self) -> ChannelLedger:
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
            self._admission = Admission(
                lambda: self.ledger.config, time_window_s=settings.time_window_s, signatures=self._ledger.signatures
            )
            await self._listen_all(self._admission)
        except BaseException:
            await self.stop(grace_s=0)
            raise
        _LOG.info("channel %s at height %d", settings.channel, self._ledger.height)

    async def _listen_all(self, admission: Admission) -> None:
        settings, ledger = self._settings, self.ledger
        blocks = self._blocks = BlockReader(ledger)
        self._wait_to_serve(settings.organisations)
        await self._serve_waiting()
        if not self._endorsers:
            raise NodeError(
                f"expected settings of organisations of the channel {ledger.channel_id!r} "
                f"({', '.join(ledger.config.application_msp_ids)}), got {', '.join(self._waiting)} only"
            )
        ordering = DeliverService(ledger=ledger, admission=admission, blocks=blocks).orderer_handler()
        self._addresses[_ORDERER] = await self._listen(_ORDERER, settings.orderer, [ordering])
        self._follower = asyncio.create_task(self._follow_configuration())
        if settings.operations_listen is not None:
            registry = CollectorRegistry()
            registry.register(NodeMetrics(settings, self.status, self._counters))
            self._operations = OperationsService(settings.operations_listen, self.status, registry=registry)
            await self._operations.start()

    async def reload(self, settings: NodeSettings) -> None:
        """Takes up the organisations that settings have and the node does not serve; all else takes a restart.

        Args:
            settings: With absolute paths, see `NodeSettings.load`.

        Raises:
            NodeError: A port is in use, or an identity does not fit.
        """
        known = {*self._listeners, *self._waiting}
        self._wait_to_serve(one for one in settings.organisations if one.msp_id not in known)
        await self._serve_waiting()

    async def wait_for_organisation(self, msp_id: str) -> str:
        """Waits until the channel has an organisation of the settings; returns where its endpoint listens.

        Raises:
            NodeError: The node stopped meanwhile.
        """
        while msp_id not in self._listeners:
            if self._ledger is None:
                raise NodeError(f"the node stopped before {msp_id} was on the channel")
            self._listening.clear()
            await self._listening.wait()
        return self._listeners[msp_id].address

    @property
    def counters(self) -> Mapping[str, Counters]:
        """What each endpoint has done since the start, by MSP id; the ordering endpoint's is empty."""
        return self._counters

    def status(self) -> dict[str, Any]:
        """Tells how the node is, for people and for `blockfl network status`."""
        ledger = self.ledger
        failure = ledger.failure
        return {
            "kind": "embedded",
            "channel": ledger.channel_id,
            "height": ledger.height,
            "error": str(failure) if failure else None,
            "codes": {code_name(code): count for code, count in sorted(ledger.codes.items())},
            "syncs": ledger.syncs,
            "orderer": self._listeners[_ORDERER].address,
            "organisations": {
                msp_id: {"address": self._listeners[msp_id].address, "contracts": dict(host.status())}
                for msp_id, host in self._hosts.items()
                if msp_id in self._listeners
            },
            "not_on_channel": sorted(self._waiting),
        }

    async def wait(self) -> None:
        """Waits until the node was stopped.

        Raises:
            NodeError: The ledger stopped accepting; a node that is stopped and started again takes it up.
        """
        await self._stopped.wait()
        if self._ledger is not None and self._ledger.failure is not None:
            raise self._ledger.failure

    async def stop(self, grace_s: float = 2.0) -> None:
        """Ends streams, lets running requests end, hangs up, closes the ledger.

        Args:
            grace_s: How long requests may still take.
        """
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])
            self._follower = None
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
        for members in (self._listeners, self._hosts, self._endorsers, self._addresses, self._waiting):
            members.clear()
        self._listening.set()
        self._stopped.set()

    # --- inside

    def _open_ledger(self) -> ChannelLedger:
        settings = self._settings
        try:
            genesis = common_pb2.Block.FromString(read_bytes(settings.genesis))
        except DecodeError as error:
            raise NodeError(f"expected a configuration block in {settings.genesis}, got something else") from error
        orderer = _load_signer(settings.orderer)
        ledger = ChannelLedger.open(settings.directory / "ledger", genesis, orderer=orderer)
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

    def _wait_to_serve(self, organisations: Iterable[OrganisationSettings]) -> None:
        on_channel = self.ledger.config.application_msp_ids
        for organisation in organisations:
            self._waiting[organisation.msp_id] = organisation
            if organisation.msp_id not in on_channel:
                _LOG.warning(
                    "%s is not on the channel %s: its endpoint is served once a configuration update lets it join",
                    organisation.msp_id,
                    self.ledger.channel_id,
                )

    async def _serve_waiting(self) -> None:
        """Serves the organisations that are on the channel by now."""
        on_channel = self.ledger.config.application_msp_ids
        joined = [self._waiting.pop(name) for name in list(self._waiting) if name in on_channel]
        # All can endorse before the first of them takes a transaction.
        for organisation in joined:
            endorser = self._make_endorser(organisation)
            self._endorsers[organisation.msp_id] = endorser
            self._addresses[organisation.msp_id] = organisation.listen
        for organisation in joined:
            try:
                await self._serve(organisation)
            except NodeError:
                del self._endorsers[organisation.msp_id]
                raise

    async def _serve(self, organisation: OrganisationSettings) -> None:
        admission, blocks, ledger = self._admission, self._blocks, self.ledger
        assert admission is not None
        assert blocks is not None
        msp_id = organisation.msp_id
        services = [
            GatewayService(
                organisation=msp_id,
                endorsers=self._endorsers,
                addresses=self._addresses,
                ledger=ledger,
                admission=admission,
                blocks=blocks,
                turns=self._turns,
            ).handler(),
            EndorserService(
                endorser=self._endorsers[msp_id], ledger=ledger, admission=admission, turns=self._turns
            ).handler(),
            DeliverService(ledger=ledger, admission=admission, blocks=blocks, organisation=msp_id).peer_handler(),
        ]
        self._addresses[msp_id] = await self._listen(msp_id, organisation, services)
        self._hosts[msp_id].connect()

    async def _follow_configuration(self) -> None:
        """Serves organisations from the block on that lets them join."""
        while True:
            height = self.ledger.height
            try:
                await self._serve_waiting()
                await self.ledger.wait_for_height(height + 1)
            except NodeError as error:
                _LOG.error("%s", error)
                if self.ledger.failure is not None:
                    self._stopped.set()
                    return

    def _make_endorser(self, organisation: OrganisationSettings) -> EndorsingPeer:
        assert self._admission is not None
        signer = _load_signer(organisation)
        _check_role(self.ledger, signer, "peer")
        counters = self._counters[organisation.msp_id]
        host = ContractHost(execute_timeout_s=self._settings.execute_timeout_s, counters=counters)
        self._hosts[organisation.msp_id] = host
        directory = self.ledger.organisation_directory(organisation.msp_id) / _INSTALLED
        values = organisation.contract.values() if organisation.contract else {}
        return EndorsingPeer(
            signer=signer,
            ledger=self.ledger,
            admission=self._admission,
            host=host,
            installation=Installation(directory, host, values),
            counters=counters,
        )

    async def _listen(self, name: str, endpoint: EndpointSettings, services: list[Any]) -> str:
        server = make_server(len(self._settings.organisations) + 1, counters=self._counters[name])
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
        self._listening.set()
        _LOG.info("%s listens on %s", "the orderer" if name == _ORDERER else name, address)
        return address


def _load_signer(endpoint: EndpointSettings) -> Signer:
    try:
        return Signer.load(endpoint.msp_id, endpoint.certificate, endpoint.private_key)
    except IdentityError as error:
        raise NodeError(f"the identity of {endpoint.msp_id} cannot be used: {error}") from error


def _check_role(ledger: ChannelLedger, signer: Signer, role: Any) -> None:
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
