"""The few fields of IP packets that a relay and a search of what it saw have to know."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address
_TCP = 6
_IPV6_HEADER = 40
SYN, ACK = 0x02, 0x10


@dataclass(frozen=True)
class Segment:
    """A TCP segment and where it belongs."""

    source: tuple[bytes, int]
    destination: tuple[bytes, int]
    sequence: int
    flags: int
    content: bytes

    @property
    def opens(self) -> bool:
        """Whether it asks for a new connection."""
        return self.flags & (SYN | ACK) == SYN


def destination_of(packet: bytes) -> bytes | None:
    """Return the packed address that a packet is sent to; None when it is no whole IP packet."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return packet[16:20]
    if version == 6 and len(packet) >= _IPV6_HEADER:
        return packet[24:40]
    return None


def read_segment(packet: bytes) -> Segment | None:
    """Return the TCP segment in a packet; None when it holds none, or only a fragment."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        start, end = 4 * (packet[0] & 0x0F), int.from_bytes(packet[2:4], "big")
        protocol, source, destination = packet[9], packet[12:16], packet[16:20]
        if int.from_bytes(packet[6:8], "big") & 0x3FFF:
            return None
    elif version == 6 and len(packet) >= _IPV6_HEADER:
        start, end = _IPV6_HEADER, _IPV6_HEADER + int.from_bytes(packet[4:6], "big")
        protocol, source, destination = packet[6], packet[8:24], packet[24:40]
    else:
        return None
    if protocol != _TCP or len(packet) < start + 20:
        return None
    ports = int.from_bytes(packet[start : start + 2], "big"), int.from_bytes(packet[start + 2 : start + 4], "big")
    content = start + 4 * (packet[start + 12] >> 4)
    return Segment(
        source=(source, ports[0]),
        destination=(destination, ports[1]),
        sequence=int.from_bytes(packet[start + 4 : start + 8], "big"),
        flags=packet[start + 13],
        content=packet[content:end],
    )


def pack(text: str) -> bytes:
    """Return an address in the form that packets carry."""
    return ip_address(text).packed
