"""TCP segments as hosts send them."""

import socket
import struct

from examples.hosts.packet import ACK, pack


def make_segment(
    content: bytes = b"", *, flags: int = ACK, sequence: int = 0, source: str = "10.83.0.11", to: str = "10.83.0.12"
) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", 40000, 7051, sequence, 0, 5 << 4, flags, 0, 0, 0) + content
    if ":" in source:
        return struct.pack("!IHBB", 6 << 28, len(tcp), socket.IPPROTO_TCP, 64) + pack(source) + pack(to) + tcp
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0)
    return header + pack(source) + pack(to) + tcp
