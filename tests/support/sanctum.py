"""What an intruder is after: an agent's key, process and sockets, all of the test's own process."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Sanctum:
    """Where everything is."""

    key: Path
    victim: Path
    rows: Path
    target: Path
    scratch: Path


@contextlib.contextmanager
def open_sanctum(home: Path) -> Iterator[Sanctum]:
    """Make a key, open it, and listen on every kind of socket."""
    secret = home / "agent"
    secret.mkdir()
    key, victim, other = secret / "key.pem", secret / "victim.pem", home / "other.txt"
    rows = home / "rows.csv"
    for path in (key, victim, other, rows):
        path.write_text("secret")
    scratch = home / "scratch"
    scratch.mkdir()
    marker = ctypes.create_string_buffer(b"secret in memory")
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        stream = stack.enter_context(socket.socket(socket.AF_UNIX))
        stream.bind(str(home / "stream"))
        stream.listen()
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0blockfl-{os.getpid()}-{threading.get_ident()}")
        abstract.listen()
        datagram = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagram.bind(str(home / "datagram"))
        opened = stack.enter_context(key.open("rb"))
        target: dict[str, Any] = {
            "key": str(key),
            "victim": str(victim),
            "other": str(other),
            "rows": str(rows),
            "outside": str(home / "outside.txt"),
            "pid": os.getpid(),
            "fd": opened.fileno(),
            "address": ctypes.addressof(marker),
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "unix": str(home / "stream"),
            "unix_datagram": str(home / "datagram"),
            "abstract": abstract.getsockname()[1:].decode(),
        }
        path = home / "target.json"
        path.write_text(json.dumps(target))
        yield Sanctum(key=key, victim=victim, rows=rows, target=path, scratch=scratch)
