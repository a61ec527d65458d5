"""The relay between the harness's hosts: what passes, when, and in which order."""

import random

import pytest
from examples.hosts.link import Link
from examples.hosts.packet import ACK, SYN, pack, read_segment
from examples.hosts.relay import Relay, SetHost, SetLink

from support.segments import make_segment

NAMES = {"10.83.0.11": "alpha", "10.83.0.12": "beta", "fd83::11": "alpha", "fd83::12": "beta"}


@pytest.fixture
def relay() -> Relay:
    return make_relay(Link(delay_ms=40))


def make_relay(link: Link) -> Relay:
    return Relay({pack(address): name for address, name in NAMES.items()}, link, random.Random(7))


def test_a_packet_arrives_after_the_delay_and_not_before(relay: Relay) -> None:
    packet = make_segment(b"hello")
    relay.take("alpha", packet, now=10.0)
    assert relay.due(10.039) == []
    assert relay.pause_s(10.0) == pytest.approx(0.040)
    assert relay.due(10.041) == [("beta", packet)]
    assert relay.pause_s(11.0) is None


def test_long_addresses_are_carried_as_short_ones(relay: Relay) -> None:
    packet = make_segment(b"hello", source="fd83::12", to="fd83::11")
    relay.take("beta", packet, now=0.0)
    assert relay.due(1.0) == [("alpha", packet)]


@pytest.mark.parametrize("packet", [b"", b"\x45", make_segment(to="10.83.0.99"), b"\x60" + bytes(20)])
def test_a_packet_to_nobody_is_counted_and_dropped(relay: Relay, packet: bytes) -> None:
    relay.take("alpha", packet, now=0.0)
    assert relay.due(60.0) == []
    assert relay.counts == {"to nobody": 1}


def test_packets_stay_in_order_whatever_the_jitter() -> None:
    relay = make_relay(Link(delay_ms=10, jitter_ms=50))
    packets = [make_segment(bytes([number])) for number in range(100)]
    for number, packet in enumerate(packets):
        relay.take("alpha", packet, now=number / 1000)
    assert relay.due(0.010) == []
    assert [packet for _, packet in relay.due(1.0)] == packets


def test_as_many_packets_are_lost_as_the_link_says() -> None:
    relay = make_relay(Link(loss=0.1))
    for _ in range(2000):
        relay.take("alpha", make_segment(), now=0.0)
    assert 150 < relay.counts["lost"] < 250
    assert len(relay.due(0.0)) == 2000 - relay.counts["lost"]


def test_a_slow_link_takes_its_time_and_drops_what_waits_too_long() -> None:
    relay = make_relay(Link(rate_kbit=8))
    packet = make_segment(bytes(460))
    for _ in range(4):
        relay.take("alpha", packet, now=0.0)
    assert len(packet) == 500
    assert len(relay.due(0.49)) == 0
    assert len(relay.due(0.5)) == 1
    assert len(relay.due(1.5)) == 2
    assert relay.counts["too many"] == 1


def test_a_link_is_changed_in_one_direction_only(relay: Relay) -> None:
    relay.change(SetLink(source="alpha", destination="beta", link=Link(is_cut=True)))
    there, back = make_segment(), make_segment(source="10.83.0.12", to="10.83.0.11")
    relay.take("alpha", there, now=0.0)
    relay.take("beta", back, now=0.0)
    assert relay.due(1.0) == [("alpha", back)]


def test_a_host_that_is_cut_off_neither_sends_nor_gets_anything_until_it_is_back(relay: Relay) -> None:
    there, back = make_segment(), make_segment(source="10.83.0.12", to="10.83.0.11")
    relay.change(SetHost(host="beta", is_cut=True, is_closed=False))
    relay.take("alpha", there, now=0.0)
    relay.take("beta", back, now=0.0)
    assert relay.due(1.0) == []
    assert relay.counts["cut"] == 2
    relay.change(SetHost(host="beta", is_cut=False, is_closed=False))
    relay.take("alpha", there, now=1.0)
    assert relay.due(2.0) == [("beta", there)]


def test_nobody_opens_a_connection_to_a_closed_host_which_opens_its_own(relay: Relay) -> None:
    relay.change(SetHost(host="beta", is_cut=False, is_closed=True))
    relay.take("alpha", make_segment(flags=SYN), now=0.0)
    assert relay.due(1.0) == []
    assert relay.counts["refused"] == 1
    own, answer = make_segment(flags=SYN, source="10.83.0.12", to="10.83.0.11"), make_segment(flags=SYN | ACK)
    relay.take("beta", own, now=1.0)
    relay.take("alpha", answer, now=1.0)
    assert relay.due(2.0) == [("alpha", own), ("beta", answer)]


def test_a_fragment_is_no_segment() -> None:
    packet = bytearray(make_segment(b"hello"))
    assert read_segment(bytes(packet)) is not None
    packet[6] = 0x20
    assert read_segment(bytes(packet)) is None
