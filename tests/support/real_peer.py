"""A real Fabric peer that takes its blocks from a test: what it makes of them is the reference for our validation."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from examples.port_range import reserve_ports
from fabric_protos.common import common_pb2
from fabric_protos.orderer import ab_pb2

from blockfl.fabric.channel.block import build_block, decode_metadata, encode_block, header_hash, sign_block
from blockfl.fabric.channel.config import ChannelConfig, is_config_block
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.channel.spec import ChannelSpec
from blockfl.fabric.client.deliver import read_blocks, seek_from, sign_seek
from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Signer, create_private_key, private_key_pem
from blockfl.fabric.transaction.reading import read_tx_id
from blockfl.fabric.validate import BlockValidation, validate_block
from support.organisation import Organisation
from support.scratch_ledger import ScratchLedger, organisations

CHANNEL = "scratch"
_START_S, _BLOCK_S = 60.0, 30.0
NODE_OUS = """\
NodeOUs:
  Enable: true
  ClientOUIdentifier: {OrganizationalUnitIdentifier: client}
  PeerOUIdentifier: {OrganizationalUnitIdentifier: peer}
  AdminOUIdentifier: {OrganizationalUnitIdentifier: admin}
  OrdererOUIdentifier: {OrganizationalUnitIdentifier: orderer}
"""


def issue_tls(organisation: Organisation) -> tuple[bytes, bytes]:
    """A TLS certificate for 127.0.0.1 and its key."""
    key = create_private_key()
    certificate = organisation.tls.issue(
        key.public_key(), common_name="node", unit=None, hosts=("127.0.0.1",), tls=True
    )
    return certificate, private_key_pem(key)


class PeerStopped(Exception):
    """A peer ended, or does not answer any more."""


class PeerAnswered(PeerStopped):
    """A node's answer after which it has to be replaced: it has stopped, or is not as it was.

    Attributes:
        code: the answer.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"answer {code}")
        self.code = code


class BlockSource:
    """The Deliver service of an ordering node that has exactly the blocks it is given."""

    def __init__(self, *, takes_back: bool = False) -> None:
        """Serve blocks; when it takes back, the last one goes away if the peer asks for it again: it has refused it."""
        self.blocks: list[bytes] = []
        self.asked = 0
        self.refused = 0
        self._takes_back = takes_back
        self._sent: set[int] = set()
        self._more = asyncio.Condition()
        self._server = grpc.aio.server()

    async def add(self, encoded: bytes) -> None:
        async with self._more:
            self.blocks.append(encoded)
            self._more.notify_all()

    async def wait_asked(self) -> None:
        """Wait until it has been asked for blocks."""
        async with self._more:
            await self._more.wait_for(lambda: self.asked > 0)

    async def wait_refused(self, count: int) -> None:
        """Wait until more than so many blocks have been refused."""
        async with self._more:
            await self._more.wait_for(lambda: self.refused > count)

    async def start(self, port: int, certificate: bytes, key: bytes) -> None:
        handler = grpc.stream_stream_rpc_method_handler(self._deliver)
        service = grpc.method_handlers_generic_handler("orderer.AtomicBroadcast", {"Deliver": handler})
        self._server.add_generic_rpc_handlers((service,))
        self._server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(key, certificate)]))
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def _deliver(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(request).payload)
            number = ab_pb2.SeekInfo.FromString(payload.data).start.specified.number
            async with self._more:
                self.asked += 1
                if self._takes_back and number in self._sent and number == len(self.blocks) - 1:
                    self.blocks.pop()
                    self._sent.discard(number)
                    self.refused += 1
                self._more.notify_all()
            while True:
                async with self._more:
                    while len(self.blocks) <= number:
                        await self._more.wait()
                    self._sent.add(number)
                block = common_pb2.Block.FromString(self.blocks[number])
                yield ab_pb2.DeliverResponse(block=block).SerializeToString()
                number += 1


class RealPeer(ScratchLedger):
    """A scratch ledger whose every block a real peer validates, too."""

    def __init__(self, config: ChannelConfig, source: BlockSource, orderer: Signer, endpoint: Endpoint) -> None:
        super().__init__(config)
        self._source = source
        self.orderer = orderer
        self.endpoint = endpoint
        genesis = common_pb2.Block.FromString(source.blocks[0])
        validation = validate_block(genesis, config, self.state)
        self.state.apply(validation.updates, validation.tx_ids)
        self._previous, self._commit_hash, self._last_config = header_hash(genesis.header), b"", 0

    async def compare(self, *envelopes: bytes) -> BlockValidation:
        """Give the next block to the peer and to our validation; both must say the same.

        The commit hashes cover everything that the block changes.
        """
        block = await self._give(envelopes)
        validation = validate_block(block, self.config, self.state)
        theirs = decode_metadata(await self._committed(self.height))
        assert list(theirs.filter) == list(validation.codes), validation.reasons
        self._commit_hash = validation.commit_hash(self._commit_hash)
        assert theirs.commit_hash == self._commit_hash
        assert validation.tx_ids == tuple(map(read_tx_id, envelopes))
        self.state.apply(validation.updates, validation.tx_ids)
        self.config = validation.config or self.config
        self._previous = header_hash(block.header)
        self.height += 1
        return validation

    async def stops_at(self, *envelopes: bytes, within_s: float) -> bool:
        """Give the next block to the peer; return whether it has not committed it within a time."""
        await self._give(envelopes)
        try:
            async with asyncio.timeout(within_s):
                await self._committed(self.height)
        except (TimeoutError, FabricError):
            return True
        return False

    async def _give(self, envelopes: Sequence[bytes]) -> Any:
        block = build_block(self.height, self._previous, envelopes)
        self._last_config = self.height if is_config_block(block) else self._last_config
        sign_block(block, [self.orderer], last_config=self._last_config)
        await self._source.add(encode_block(block))
        return block

    async def _committed(self, number: int) -> Any:
        request = sign_seek(seek_from(number), CHANNEL, organisations()["delta"].signer("admin", "admin"))
        async with asyncio.timeout(_BLOCK_S), self.endpoint.open_channel() as channel:
            async for block in read_blocks(channel, request):
                return block
        raise AssertionError(f"the peer does not serve block {number}")


@dataclass(frozen=True, kw_only=True)
class PeerIdentity:
    """What a peer of delta runs with; certificates and keys in PEM."""

    authority: bytes
    tls_authority: bytes
    certificate: bytes
    key: bytes
    tls_certificate: bytes
    tls_key: bytes


@asynccontextmanager
async def real_peer(
    binaries: Path, directory: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[RealPeer]:
    """A peer of delta on a raft channel whose only ordering node is the test; ``settings`` are further variables."""
    source, port = BlockSource(), reserve_ports()
    alpha, delta = organisations()["alpha"], organisations()["delta"]
    genesis = build_genesis_block(
        ChannelSpec(
            channel_id=CHANNEL,
            application=tuple(one.spec() for one in organisations().values()),
            orderers=(alpha.spec(orderer=port),),
            consensus="etcdraft",
            consenters=(alpha.consenter(1, port),),
        )
    )
    await source.add(encode_block(genesis))
    await source.start(port, *issue_tls(alpha))
    signer = delta.signer("peer0", "peer")
    tls_certificate, tls_key = issue_tls(delta)
    identity = PeerIdentity(
        authority=delta.signing.certificate_pem,
        tls_authority=delta.tls.certificate_pem,
        certificate=signer.identity.certificate_pem,
        key=private_key_pem(signer.private_key),
        tls_certificate=tls_certificate,
        tls_key=tls_key,
    )
    try:
        async with running_peer(binaries, directory, identity, settings) as peer:
            async with Endorser(peer.endpoint, delta.signer("admin", "admin")) as endorser:
                await wait_for(endorser, peer.process)
                await endorser.query("", "cscc", "JoinChain", encode_block(genesis))
            orderer = alpha.signer("orderer1", "orderer")
            yield RealPeer(ChannelConfig.from_block(genesis), source, orderer, peer.endpoint)
    finally:
        await source.stop()


@dataclass(frozen=True, kw_only=True)
class RunningPeer:
    """A peer's process, and where it is reached."""

    process: asyncio.subprocess.Process
    endpoint: Endpoint


@asynccontextmanager
async def running_peer(
    binaries: Path, directory: Path, identity: PeerIdentity, settings: Mapping[str, str] | None = None
) -> AsyncIterator[RunningPeer]:
    """A peer of delta that has joined no channel yet, and may not be ready."""
    endpoint = Endpoint(address=f"127.0.0.1:{reserve_ports()}", tls_roots_pem=identity.tls_authority)
    environment = _environment(binaries, directory, endpoint, identity) | dict(settings or {})
    with (directory / "peer.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            binaries / "peer", "node", "start", env=environment, stdout=log, stderr=log
        )
        try:
            yield RunningPeer(process=process, endpoint=endpoint)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def wait_for(endorser: Endorser, process: asyncio.subprocess.Process) -> None:
    """Wait until a peer answers."""
    async with asyncio.timeout(_START_S):
        while True:
            assert process.returncode is None, "the peer stopped: see peer.log"
            try:
                await endorser.query("", "cscc", "GetChannels")
            except FabricError:
                await asyncio.sleep(0.1)
            else:
                return


def _environment(binaries: Path, directory: Path, endpoint: Endpoint, identity: PeerIdentity) -> dict[str, str]:
    files = {
        "msp/cacerts/ca.pem": identity.authority,
        "msp/tlscacerts/ca.pem": identity.tls_authority,
        "msp/signcerts/peer.pem": identity.certificate,
        "msp/keystore/key_sk": identity.key,
        "msp/config.yaml": NODE_OUS.encode(),
        "tls.crt": identity.tls_certificate,
        "tls.key": identity.tls_key,
        "tls_ca.pem": identity.tls_authority,
    }
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    configuration = binaries if (binaries / "core.yaml").is_file() else binaries.parent / "config"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "FABRIC_CFG_PATH": os.environ.get("FABRIC_CFG_PATH", str(configuration)),
        "FABRIC_LOGGING_SPEC": "warning",
        "GOMEMLIMIT": "400MiB",
        "CORE_PEER_ID": "peer0.delta",
        "CORE_PEER_LOCALMSPID": "delta",
        "CORE_PEER_MSPCONFIGPATH": str(directory / "msp"),
        "CORE_PEER_FILESYSTEMPATH": str(directory / "data"),
        "CORE_LEDGER_SNAPSHOTS_ROOTDIR": str(directory / "snapshots"),
        "CORE_PEER_ADDRESS": endpoint.address,
        "CORE_PEER_LISTENADDRESS": endpoint.address,
        "CORE_PEER_CHAINCODELISTENADDRESS": f"127.0.0.1:{reserve_ports()}",
        "CORE_OPERATIONS_LISTENADDRESS": f"127.0.0.1:{reserve_ports()}",
        "CORE_PEER_TLS_ENABLED": "true",
        "CORE_PEER_TLS_CERT_FILE": str(directory / "tls.crt"),
        "CORE_PEER_TLS_KEY_FILE": str(directory / "tls.key"),
        "CORE_PEER_TLS_ROOTCERT_FILE": str(directory / "tls_ca.pem"),
        "CORE_PEER_GOSSIP_USELEADERELECTION": "false",
        "CORE_PEER_GOSSIP_ORGLEADER": "true",
        "CORE_PEER_GOSSIP_BOOTSTRAP": endpoint.address,
        "CORE_PEER_GOSSIP_PVTDATA_PULLRETRYTHRESHOLD": "1s",
        "CORE_VM_ENDPOINT": "",
        "CORE_CHAINCODE_EXTERNALBUILDERS": json.dumps([{"name": "none", "path": str(directory)}]),
    }
