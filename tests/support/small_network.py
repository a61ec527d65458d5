"""A small network of the product's own processes: four organisations, all of which order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.port_range import reserve_ports

from blockfl.network.description import Description, LedgerKind
from blockfl.network.network import Network

ORGANISATIONS = ("coordinator", "regulator", "university", "hospital")
_TEXT = """\
network: small
channel: federation
contract: blockfl
threshold: 2
consensus: {consensus}
base_port: {base_port}
organisations:
  - {{name: coordinator, roles: [committee, coordinator], orderer: true{guard}}}
  - {{name: regulator, roles: [committee], orderer: true{guard}}}
  - {{name: university, roles: [committee], orderer: true{guard}}}
  - {{name: hospital, roles: [institution], orderer: {fourth}{fourth_guard}}}
"""


def describe_small(base_port: int, *, consensus: str = "BFT", guard: bool = False) -> str:
    """The description as YAML; under raft three of the four order. A guard stands before each node, or before none."""
    before = ", guard: true" if guard else ""
    fourth = consensus == "BFT"
    return _TEXT.format(
        base_port=base_port,
        consensus=consensus,
        guard=before,
        fourth=str(fourth).lower(),
        fourth_guard=before if fourth else "",
    )


@contextmanager
def small_network(
    directory: Path, ledger: LedgerKind, *, consensus: str = "BFT", guard: bool = False
) -> Iterator[Network]:
    """Bring one up, and take it down."""
    text = describe_small(reserve_ports(60), consensus=consensus, guard=guard)
    network = Network.prepare(directory, Description.parse(text, "small.yaml", ledger), ledger)
    try:
        network.up(lambda _: None)
        yield network
    finally:
        # It may have been extended meanwhile.
        Network.open(directory).down()
