"""A network whose organisations are all on one machine, founded by the steps that hosts take, once for each of them.

What one machine cannot have is secrecy: its owner sees every key. What it can have is the same code, files and checks.

Example:
    hosts = found(description, Layout(directory))
"""

import time

from blockfl.contract.release import read_release
from blockfl.network.code_change import Agreement, agree_on_code
from blockfl.network.description import Description
from blockfl.network.founding import Founding, FoundingTerms
from blockfl.network.host import Host
from blockfl.network.layout import Layout


def list_hosts(description: Description, layout: Layout) -> list[Host]:
    """Return every organisation's part."""
    return [Host(one, layout.organisation(one.name)) for one in description.organisations]


def found(description: Description, layout: Layout, agreement: Agreement | None = None) -> list[Host]:
    """Make what is missing of every organisation's part; what was founded before is kept.

    Args:
        description: The network, as what runs it sees it; organisations that are not among the founders join them.
        layout: The machine's directory.
        agreement: Which code of the contract may take the place of the network's; by default none.

    Returns:
        The parts, ready to be started.

    Raises:
        NetworkError: A directory belongs to another network, keys were replaced, or a file cannot be written.
    """
    hosts = list_hosts(description, layout)
    for host in (one for one in hosts if one.organisation.has_peer):
        agree_on_code(host.layout.package, description.contract, agreement or Agreement())
    members = [host.provision() for host in hosts]
    founding = next((founded for host in hosts if (founded := host.load_founding())), None)
    if founding is None:
        founding = Founding.assemble(_make_terms(description), members)
    founders = {one.name for one in founding.memberships}
    if not all(host.has_adopted(founding) for host in hosts):
        signatures = [host.sign(founding) for host in hosts if host.name in founders]
        for host in hosts:
            host.adopt(founding, signatures, joins=host.name not in founders)
    for host in hosts:
        host.agree(founding, description.consortium)
    return hosts


def _make_terms(description: Description) -> FoundingTerms:
    return FoundingTerms(
        network=description.network,
        channel=description.channel,
        contract=description.contract,
        threshold=description.threshold,
        consensus=description.consensus,
        leader_timeout_s=description.leader_timeout_s,
        code_digest=read_release().record_digest,
        founded_s=int(time.time()),
    )
