"""An ordering node's administration as its client sees it: what it sends, and what it makes of the answers."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fabric_protos.common import common_pb2

from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.client.participation import ChannelMembership, Participation
from blockfl.fabric.errors import BlockError, ConfigError, FabricError, NodeError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import create_private_key, private_key_pem
from support.organisation import channel_spec, make_organisation

ACTIVE = {"name": "testchannel", "consensusRelation": "consenter", "status": "active", "height": 7, "url": "/x"}


@dataclass
class Administration:
    """An endpoint that wants a client certificate, answers as told and remembers what it was asked."""

    directory: Path
    authority: Authority = field(default_factory=lambda: Authority.create("administration", "alpha"))
    answer: tuple[int, bytes] = (200, b"{}")
    asked: list[tuple[str, str, str, bytes]] = field(default_factory=list)
    port: int = 0

    def client(self, *, authority: Authority | None = None) -> Participation:
        certificate, key = self.issue(authority or self.authority, "client")
        return Participation(
            address=f"127.0.0.1:{self.port}",
            tls_roots_pem=self.authority.certificate_pem,
            certificate=certificate,
            private_key=key,
            timeout_s=10,
        )

    def issue(self, authority: Authority, name: str) -> tuple[Path, Path]:
        key = create_private_key()
        paths = self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        pem = authority.issue(key.public_key(), common_name=name, unit=None, hosts=("127.0.0.1",), tls=True)
        paths[0].write_bytes(pem)
        paths[1].write_bytes(private_key_pem(key))
        return paths


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Administration]:
    administration = Administration(tmp_path)

    class Handler(http.server.BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            administration.asked.append((self.command, self.path, self.headers.get("Content-Type") or "", body))
            status, content = administration.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve

        def log_message(self, *_: Any) -> None:
            """Nothing to standard error."""

    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cadata=administration.authority.certificate_pem.decode()
    )
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*administration.issue(administration.authority, "server"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        administration.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield administration
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def genesis() -> bytes:
    return bytes(build_genesis_block(channel_spec(make_organisation("alpha"))).SerializeToString())


async def test_a_membership_is_read(node: Administration) -> None:
    node.answer = (200, json.dumps(ACTIVE).encode())
    found = await node.client().find("testchannel")
    assert found == ChannelMembership(channel="testchannel", relation="consenter", status="active", height=7)
    assert node.asked[0][:2] == ("GET", "/participation/v1/channels/testchannel")


async def test_a_channel_that_is_not_there_is_none(node: Administration) -> None:
    node.answer = (404, b'{"error": "channel does not exist"}')
    assert await node.client().find("testchannel") is None


@pytest.mark.parametrize(
    ("answer", "channels"),
    [(b'{"systemChannel": null, "channels": null}', ()), (b'{"channels": [{"name": "a"}, {"name": "b"}]}', ("a", "b"))],
)
async def test_channels_are_listed(node: Administration, answer: bytes, channels: tuple[str, ...]) -> None:
    node.answer = (200, answer)
    assert await node.client().channels() == channels


async def test_joining_sends_the_first_block_as_a_form(node: Administration, genesis: bytes) -> None:
    node.answer = (201, json.dumps(ACTIVE).encode())
    assert (await node.client().join(genesis)).status == "active"
    method, path, kind, body = node.asked[0]
    assert (method, path) == ("POST", "/participation/v1/channels")
    boundary = kind.removeprefix("multipart/form-data; boundary=").encode()
    assert body.startswith(b"--" + boundary + b"\r\n")
    assert body.endswith(b"\r\n--" + boundary + b"--\r\n")
    assert b'name="config-block"' in body
    assert genesis in body


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda block: block[:-3], BlockError),
        (lambda block: b"", FabricError),
        (lambda block: without_metadata(block), ConfigError),
    ],
)
async def test_a_block_that_would_stop_a_node_is_never_sent(
    node: Administration, genesis: bytes, change: Callable[[bytes], bytes], error: type[FabricError]
) -> None:
    with pytest.raises(error):
        await node.client().join(change(genesis))
    assert node.asked == []


def without_metadata(block: bytes) -> bytes:
    changed = common_pb2.Block.FromString(block)
    del changed.metadata.metadata[2:]
    return bytes(changed.SerializeToString())


async def test_a_refusal_is_told_with_the_nodes_reason(node: Administration, genesis: bytes) -> None:
    node.answer = (405, b'{"error": "cannot join: channel already exists"}')
    with pytest.raises(NodeError, match=r"127\.0\.0\.1:\d+ answers 405: cannot join: channel already exists"):
        await node.client().join(genesis)


@pytest.mark.parametrize("answer", [b"", b"not JSON", b"[]", b'{"name": "x"}', b'{"name":"x","height":"many"}'])
async def test_an_answer_that_is_none_is_refused(node: Administration, answer: bytes) -> None:
    node.answer = (200, answer)
    with pytest.raises(NodeError):
        await node.client().find("testchannel")


async def test_a_client_of_another_authority_is_not_let_in(node: Administration) -> None:
    stranger = Authority.create("another", "alpha")
    with pytest.raises(NodeError, match="cannot be asked"):
        await node.client(authority=stranger).find("testchannel")
    assert node.asked == []


async def test_a_node_that_is_not_there_is_named(tmp_path: Path) -> None:
    client = Administration(tmp_path, port=1).client()
    with pytest.raises(NodeError, match=r"the ordering node 127\.0\.0\.1:1 cannot be asked"):
        await client.channels()


async def test_files_that_are_missing_are_named(node: Administration) -> None:
    client = node.client()
    client.certificate.unlink()
    with pytest.raises(FabricError, match=r"a certificate with its key in .*client\.pem"):
        await client.channels()
