"""A small network of the product's own processes: four organisations, all of which order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blockfl.network.description import Description, LedgerKind
from blockfl.network.network import Network
from support.port_range import find_free_base_port

ORGANISATIONS = ("coordinator", "regulator", "university", "hospital")
_TEXT = """\
network: small
channel: federation
contract: blockfl
threshold: 2
consensus: {consensus}
base_port: {base_port}
organisations:
  - {{name: coordinator, roles: [committee, coordinator], orderer: true}}
  - {{name: regulator, roles: [committee], orderer: true}}
  - {{name: university, roles: [committee], orderer: true}}
  - {{name: hospital, roles: [institution], orderer: {fourth}}}
"""


def describe_small(base_port: int, *, consensus: str = "BFT") -> str:
    """The description as YAML; under raft three of the four order."""
    return _TEXT.format(base_port=base_port, consensus=consensus, fourth=str(consensus == "BFT").lower())


@contextmanager
def small_network(directory: Path, ledger: LedgerKind, *, consensus: str = "BFT") -> Iterator[Network]:
    """Bring one up, and take it down."""
    text = describe_small(find_free_base_port(60), consensus=consensus)
    network = Network.prepare(directory, Description.parse(text, "small.yaml", ledger), ledger)
    try:
        network.up(lambda _: None)
        yield network
    finally:
        # It may have been extended meanwhile.
        Network.open(directory).down()
