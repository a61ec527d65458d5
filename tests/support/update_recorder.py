"""Recording the corpus' updates: given to a real ordering node, or, as the block they lead to, to a real peer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from examples.port_range import reserve_ports
from fabric_protos.common import common_pb2
from fabric_protos.orderer import ab_pb2

from blockfl.fabric.channel.block import decode_metadata, encode_block, header_hash
from blockfl.fabric.client.broadcast import BROADCAST
from blockfl.fabric.client.deliver import read_blocks, seek_from, sign_seek
from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.participation import Participation
from blockfl.fabric.errors import FabricError, NodeError
from blockfl.fabric.identity.signing import private_key_pem
from support.corpus_drafts import PORT
from support.corpus_updates import REFUSED, TAKEN, make_update_block, make_update_case, updates_genesis
from support.corpus_world import corpus_organisations, corpus_peer
from support.real_peer import NODE_OUS, PeerAnswered, PeerStopped, RunningPeer, running_peer, wait_for
from support.rich_certificates import fixed_key

_ANSWER_S: Final = 30.0
_START_S: Final = 60.0
_PAUSE_S: Final = 0.1
_NO_COMMIT: Final = b"Cannot commit block"
"""What a peer logs before it ends at a configuration that it refuses."""
_TOO_LARGE: Final = "did not pass final checks: message payload is"
"""What an ordering node says once it has taken an update, before it would order the configuration."""


@asynccontextmanager
async def update_witness(binaries: Path, directory: Path) -> AsyncIterator[Any]:
    """An ordering node that is asked about one update after the other."""
    alpha = corpus_organisations()["alpha"]
    environment, participation = _configure(binaries, directory)
    endpoint = Endpoint(address=f"127.0.0.1:{PORT}", tls_roots_pem=alpha.tls_authority_pem)
    with (directory / "orderer.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(binaries / "orderer", env=environment, stdout=log, stderr=log)
        try:
            await _join(participation, process)
            async with endpoint.open_channel() as channel:

                async def ask(kind: str, number: int) -> int:
                    answer = await _send(channel, make_update_case(kind, number))
                    if answer.status == common_pb2.SUCCESS:
                        # It leads to so small a configuration that it was ordered: the next case starts anew.
                        raise PeerAnswered(TAKEN)
                    # Without a leader it says so only once it has taken the update.
                    is_taken = answer.status == common_pb2.SERVICE_UNAVAILABLE or _TOO_LARGE in answer.info
                    return TAKEN if is_taken else REFUSED

                yield ask
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _send(channel: Any, envelope: bytes) -> Any:
    """What the ordering node answers (orderer.BroadcastResponse).

    Raises:
        PeerStopped: nothing.
    """
    call = channel.stream_stream(BROADCAST)(timeout=_ANSWER_S)
    try:
        await call.write(envelope)
        answer = await call.read()
    except grpc.aio.AioRpcError as error:
        raise PeerStopped(error.details()) from error
    finally:
        call.cancel()
    if not isinstance(answer, bytes):
        raise PeerStopped("the ordering node hung up without an answer")
    return ab_pb2.BroadcastResponse.FromString(answer)


async def _join(participation: Participation, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            assert process.returncode is None, "the ordering node stopped: see orderer.log"
            try:
                await participation.join(encode_block(updates_genesis()))
            except NodeError:
                await asyncio.sleep(_PAUSE_S)
            else:
                return


def _configure(binaries: Path, directory: Path) -> tuple[dict[str, str], Participation]:
    alpha = corpus_organisations()["alpha"]
    signer = alpha.signer("orderer1", "orderer")
    key = private_key_pem(signer.private_key)
    files = {
        "msp/cacerts/ca.pem": alpha.authority_pem,
        "msp/tlscacerts/ca.pem": alpha.tls_authority_pem,
        "msp/signcerts/orderer.pem": signer.identity.certificate_pem,
        "msp/keystore/key_sk": key,
        "msp/config.yaml": NODE_OUS.encode(),
        "tls.crt": alpha.issue_tls("orderer1"),
        "tls.key": private_key_pem(fixed_key("orderer1.alpha")),
        "tls_ca.pem": alpha.tls_authority_pem,
    }
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    certificate, private, roots = (str(directory / name) for name in ("tls.crt", "tls.key", "tls_ca.pem"))
    administration = f"127.0.0.1:{reserve_ports()}"
    configuration = binaries if (binaries / "orderer.yaml").is_file() else binaries.parent / "config"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "FABRIC_CFG_PATH": os.environ.get("FABRIC_CFG_PATH", str(configuration)),
        "FABRIC_LOGGING_SPEC": "error",
        "ORDERER_GENERAL_LISTENADDRESS": "127.0.0.1",
        "ORDERER_GENERAL_LISTENPORT": str(PORT),
        "ORDERER_GENERAL_LOCALMSPID": "alpha",
        "ORDERER_GENERAL_LOCALMSPDIR": str(directory / "msp"),
        "ORDERER_GENERAL_TLS_ENABLED": "true",
        "ORDERER_GENERAL_TLS_CERTIFICATE": certificate,
        "ORDERER_GENERAL_TLS_PRIVATEKEY": private,
        "ORDERER_GENERAL_TLS_ROOTCAS": f"[{roots}]",
        "ORDERER_GENERAL_CLUSTER_CLIENTCERTIFICATE": certificate,
        "ORDERER_GENERAL_CLUSTER_CLIENTPRIVATEKEY": private,
        "ORDERER_GENERAL_CLUSTER_ROOTCAS": f"[{roots}]",
        "ORDERER_GENERAL_BOOTSTRAPMETHOD": "none",
        "ORDERER_CHANNELPARTICIPATION_ENABLED": "true",
        "ORDERER_ADMIN_LISTENADDRESS": administration,
        "ORDERER_ADMIN_TLS_ENABLED": "true",
        "ORDERER_ADMIN_TLS_CERTIFICATE": certificate,
        "ORDERER_ADMIN_TLS_PRIVATEKEY": private,
        "ORDERER_ADMIN_TLS_CLIENTAUTHREQUIRED": "true",
        "ORDERER_ADMIN_TLS_CLIENTROOTCAS": f"[{roots}]",
        "ORDERER_OPERATIONS_LISTENADDRESS": f"127.0.0.1:{reserve_ports()}",
        "ORDERER_FILELEDGER_LOCATION": str(directory / "ledger"),
        "ORDERER_CONSENSUS_WALDIR": str(directory / "wal"),
        "ORDERER_CONSENSUS_SNAPDIR": str(directory / "snapshots"),
    }
    participation = Participation(
        address=administration,
        tls_roots_pem=alpha.tls_authority_pem,
        certificate=Path(certificate),
        private_key=Path(private),
    )
    return environment, participation


class _BlocksOfChannels:
    """The Deliver service of an ordering node that has block 1 of each channel; asked for it again, it was refused."""

    def __init__(self) -> None:
        self.blocks: dict[str, bytes] = {}
        self.refused: dict[str, asyncio.Event] = {}
        self._sent: set[str] = set()
        self._server = grpc.aio.server()

    async def start(self) -> None:
        alpha = corpus_organisations()["alpha"]
        handler = grpc.stream_stream_rpc_method_handler(self._deliver)
        service = grpc.method_handlers_generic_handler("orderer.AtomicBroadcast", {"Deliver": handler})
        self._server.add_generic_rpc_handlers((service,))
        pair = (private_key_pem(fixed_key("orderer1.alpha")), alpha.issue_tls("orderer1"))
        self._server.add_secure_port(f"127.0.0.1:{PORT}", grpc.ssl_server_credentials([pair]))
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def _deliver(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(request).payload)
            channel = common_pb2.ChannelHeader.FromString(payload.header.channel_header).channel_id
            number = ab_pb2.SeekInfo.FromString(payload.data).start.specified.number
            if number == 1 and channel in self._sent:
                self.refused[channel].set()
            elif number == 1:
                self._sent.add(channel)
                block = common_pb2.Block.FromString(self.blocks[channel])
                yield ab_pb2.DeliverResponse(block=block).SerializeToString()
            await asyncio.Event().wait()


class ChangeWitness:
    """A running peer that joins one channel after the other, and commits block 1 of it, or does not."""

    def __init__(self, peer: RunningPeer, log: Path, administrator: Endorser, source: _BlocksOfChannels) -> None:
        self._peer = peer
        self._log = log
        self._administrator = administrator
        self._source = source

    async def ask(self, kind: str, number: int) -> int:
        """The code of a case, or `REFUSED`.

        Raises:
            PeerAnswered: the peer has stopped at it, as peers do at a configuration that they refuse.
            PeerStopped: it gives no answer.
        """
        channel = f"{kind}-{number}"
        genesis = updates_genesis(channel)
        envelope = make_update_case(kind, number, channel)
        self._source.blocks[channel] = encode_block(make_update_block(envelope, header_hash(genesis.header)))
        refused = self._source.refused[channel] = asyncio.Event()
        try:
            await self._administrator.query("", "cscc", "JoinChain", encode_block(genesis))
        except FabricError as error:
            raise self._stopped(channel) from error
        waiting = {
            "committed": asyncio.ensure_future(self._read(channel)),
            "refused": asyncio.ensure_future(refused.wait()),
            "ended": asyncio.ensure_future(self._peer.process.wait()),
        }
        try:
            async with asyncio.timeout(_ANSWER_S):
                await asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
            if waiting["committed"].done() and waiting["committed"].exception() is None:
                return int(decode_metadata(waiting["committed"].result()).filter[0])
            if waiting["committed"].done():
                async with asyncio.timeout(_ANSWER_S):
                    await waiting["ended"]
        except TimeoutError as error:
            raise PeerStopped(channel) from error
        finally:
            for one in waiting.values():
                one.cancel()
        if refused.is_set():
            return REFUSED
        raise self._stopped(channel)

    def _stopped(self, channel: str) -> PeerStopped:
        has_refused = self._peer.process.returncode is not None and _NO_COMMIT in self._log.read_bytes()
        return PeerAnswered(REFUSED) if has_refused else PeerStopped(channel)

    async def _read(self, channel: str) -> Any:
        admin = corpus_organisations()["delta"].signer("admin", "admin")
        async with self._peer.endpoint.open_channel() as opened:
            async for block in read_blocks(opened, sign_seek(seek_from(1), channel, admin)):
                return block
        raise PeerStopped(channel)


@asynccontextmanager
async def change_witness(binaries: Path, directory: Path) -> AsyncIterator[ChangeWitness]:
    """A fresh peer that has joined nothing."""
    source = _BlocksOfChannels()
    await source.start()
    try:
        async with running_peer(binaries, directory, corpus_peer()) as peer:
            administrator = corpus_organisations()["delta"].signer("admin", "admin")
            async with Endorser(peer.endpoint, administrator, timeout_s=_ANSWER_S) as endorser:
                await wait_for(endorser, peer.process)
                yield ChangeWitness(peer, directory / "peer.log", endorser, source)
    finally:
        await source.stop()
