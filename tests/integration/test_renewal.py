"""Certificates are renewed under a running network and after they have ended; a lost ordering key is told of."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from blockfl.contract.release import read_release
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import create_private_key, load_private_key, parse_certificate, private_key_pem
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import Administrator
from blockfl.network.certificates import Pair, list_pairs
from blockfl.network.identities import read_roots
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from blockfl.network.process import ProcessTable
from blockfl.protocol import catalogue
from support.small_network import ORGANISATIONS, small_network

pytestmark = pytest.mark.slow
ORDERER = "orderer-coordinator"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Iterator[Layout]:
    directory = tmp_path_factory.mktemp("renewal") / "network"
    with small_network(directory, ledger_kind):  # type: ignore[arg-type]
        yield Layout(directory)


def ignore(_: str) -> None:
    """Take no notice of progress."""


def open_network(layout: Layout) -> Network:
    return Network.open(layout.directory)


def renew(layout: Layout, *names: str, keep_keys: bool = False) -> list[str]:
    said: list[str] = []
    with open_network(layout).renewal() as renewal:
        renewal.renew(renewal.choose(names), said.append, keep_keys=keep_keys)
    return said


def pairs_of(layout: Layout, name: str) -> list[Pair]:
    found = [pair for host in open_network(layout).hosts for pair in list_pairs(host) if pair.holder == name]
    assert found
    return found


def serials(layout: Layout, name: str) -> list[int]:
    return [parse_certificate(pair.certificate.read_bytes()).serial_number for pair in pairs_of(layout, name)]


def test_status_names_what_each_contract_service_runs(layout: Layout) -> None:
    runs = {row.name: row.runs for row in open_network(layout).status() if row.runs}
    assert runs == {f"contract-{name}": read_release().name for name in ORGANISATIONS}


def complaints(layout: Layout) -> dict[str, str]:
    return {row.name: row.error for row in open_network(layout).status() if row.error}


def read_config(layout: Layout) -> ChannelConfig:
    profile = ConnectionProfile.load(layout.organisation("hospital").profile("admin"))
    return asyncio.run(Administrator(profile).read())


async def ask(layout: Layout, organisation: str) -> None:
    async with Ledger(ConnectionProfile.load(layout.organisation(organisation).profile("agent"))) as ledger:
        assert (await ledger.read(catalogue.CONSORTIUM.key())).network == "small"


async def ask_all(layout: Layout) -> None:
    """Every organisation's peer and contract service answer, perhaps after a moment."""
    async with asyncio.timeout(60):
        for name in ORGANISATIONS:
            while True:
                try:
                    await ask(layout, name)
                except LedgerError:
                    await asyncio.sleep(0.2)
                else:
                    break


def refusal(layout: Layout, organisation: str) -> str:
    """Why an organisation's peer cannot be asked."""
    try:
        asyncio.run(ask(layout, organisation))
    except LedgerError as error:
        return str(error)
    return ""


def end(pair: Pair) -> None:
    """Have a certificate that has ended, for the same key."""
    authority = Authority.from_pem(pair.authority.read_bytes(), pair.authority_key.read_bytes())
    ended = authority.issue(
        load_private_key(pair.key).public_key(),
        common_name=pair.wanted.common_name,
        unit=pair.wanted.unit,
        hosts=pair.wanted.hosts,
        tls=pair.wanted.tls,
        valid_from=authority.certificate.not_valid_before_utc,
        valid_until=datetime.now(UTC) - timedelta(seconds=1),
    )
    pair.certificate.write_bytes(ended)


@pytest.mark.parametrize(
    "name", ["peer-hospital", "contract-hospital", "dialling-hospital", "admin-hospital", "agent-hospital", ORDERER]
)
def test_each_is_renewed_under_the_running_network(layout: Layout, ledger_kind: str, name: str) -> None:
    before = [] if name.startswith("dialling") else serials(layout, name)
    config = read_config(layout)
    said = renew(layout, name)
    assert f"renewed: {name}" in said
    if before:
        assert not set(before) & set(serials(layout, name))
    asyncio.run(ask_all(layout))
    assert complaints(layout) == {}
    if name == ORDERER and ledger_kind == "local":
        after = read_config(layout)
        assert after.sequence == config.sequence + 1
        signing, tls = (pair.certificate.read_bytes() for pair in pairs_of(layout, name))
        changed = [two for one, two in zip(config.consenters, after.consenters, strict=True) if one != two]
        assert [(one.identity_pem, one.server_tls_certificate) for one in changed] == [(signing, tls)]


def test_up_finds_everything_in_order_afterwards(layout: Layout) -> None:
    open_network(layout).up(ignore)
    assert complaints(layout) == {}


def test_an_ended_certificate_is_told_by_name_and_renewed(layout: Layout, ledger_kind: str) -> None:
    (tls,) = (pair for pair in pairs_of(layout, "peer-hospital") if pair.purpose == "TLS")
    end(tls)
    process = "node" if ledger_kind == "embedded" else "peer-hospital"
    assert "the TLS certificate of peer-hospital ended on" in complaints(layout)[process]
    # It goes on with what it began with; begun anew, nobody takes it any more, and its users are told why.
    processes = ProcessTable(layout.directory)
    processes.signal(process, signal.SIGKILL)
    processes.restart(process)
    wait_until(lambda: "TLS certificate of 127.0.0.1:" in refusal(layout, "hospital"))
    assert "is not valid here: it has ended, or" in refusal(layout, "hospital")
    with open_network(layout).renewal() as renewal:
        assert renewal.choose() == ["peer-hospital"]
        renewal.renew(["peer-hospital"], ignore)
    asyncio.run(ask_all(layout))
    assert complaints(layout) == {}


def test_an_authority_is_followed_by_another_one(layout: Layout, ledger_kind: str) -> None:
    place, before = layout.organisation("hospital"), read_config(layout)
    (former,) = read_roots(place.tls_authority("certificate"))
    assert "authority-hospital: the new authorities count beside the former ones" in renew(layout, "authority-hospital")
    roots = read_roots(place.tls_authority("certificate"))
    assert read_config(layout).msps["hospital"].tls_roots == (former, roots[0])
    asyncio.run(ask_all(layout))
    names = [f"{kind}-hospital" for kind in ("admin", "agent", "contract", "peer", "orderer")]
    held = {pair.holder for host in open_network(layout).hosts for pair in list_pairs(host)}
    renew(layout, *(name for name in names if name in held))
    asyncio.run(ask_all(layout))
    for pair in pairs_of(layout, "peer-hospital"):
        parse_certificate(pair.certificate.read_bytes()).verify_directly_issued_by(
            parse_certificate(pair.authority.read_bytes())
        )
    assert complaints(layout) == {}
    open_network(layout).up(ignore)
    # Nothing uses the former ones any more.
    administrator = Administrator(ConnectionProfile.load(place.profile("admin")))
    config = read_config(layout)
    update = administrator.remove_roots(config, [], [former])
    after = asyncio.run(administrator.submit(config, update, [administrator.sign(update)]))
    assert after.msps["hospital"].tls_roots == (roots[0],)
    assert after.sequence > before.sequence + 1
    asyncio.run(ask_all(layout))


def test_ordering_nodes_whose_certificates_have_all_ended_come_back_with_the_keys_they_have(
    layout: Layout, ledger_kind: str
) -> None:
    if ledger_kind == "embedded":
        pytest.skip("the embedded node has one orderer")
    names = [f"orderer-{name}" for name in ORGANISATIONS]
    open_network(layout).stop()
    for name in names:
        for pair in pairs_of(layout, name):
            end(pair)
    # Nothing runs, and no quorum could sign anything: certificates for the same keys need nobody's consent.
    renew(layout, *names, keep_keys=True)
    open_network(layout).up(ignore)
    assert complaints(layout) == {}
    # Now the channel can be told of a new key again.
    renew(layout, names[0])
    asyncio.run(ask_all(layout))


def test_a_lost_ordering_key_is_not_replaced_in_silence_but_by_renewal(layout: Layout, ledger_kind: str) -> None:
    if ledger_kind == "embedded":
        pytest.skip("the embedded node has one orderer")
    key = next(pair.key for pair in pairs_of(layout, ORDERER) if pair.purpose == "signing")
    open_network(layout).stop()
    key.unlink()
    # All others run, and the network works; this one is told of.
    open_network(layout).up(ignore)
    assert not key.exists()
    assert f"blockfl network renew {ORDERER}" in complaints(layout)[ORDERER]
    asyncio.run(ask_all(layout))
    renew(layout, ORDERER)
    assert complaints(layout) == {}
    open_network(layout).up(ignore)
    assert complaints(layout) == {}


def test_an_ordering_key_that_the_channel_does_not_know_is_told_and_repaired(layout: Layout, ledger_kind: str) -> None:
    if ledger_kind == "embedded":
        pytest.skip("the embedded node has one orderer")
    # As by hand: another key and certificate of the right authority, and the node begun anew.
    signing = next(pair for pair in pairs_of(layout, ORDERER) if pair.purpose == "signing")
    replace_by_hand(signing)
    processes = ProcessTable(layout.directory)
    processes.signal(ORDERER, signal.SIGKILL)
    processes.restart(ORDERER)
    wait_until(lambda: "takes no part in ordering" in complaints(layout).get(ORDERER, ""))
    assert "the channel does not know its key; put the former one back, or" in complaints(layout)[ORDERER]
    renew(layout, ORDERER)
    assert complaints(layout) == {}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.2)


def replace_by_hand(pair: Pair) -> None:
    key = create_private_key()
    authority = Authority.from_pem(pair.authority.read_bytes(), pair.authority_key.read_bytes())
    pair.certificate.write_bytes(
        authority.issue(key.public_key(), common_name=pair.wanted.common_name, unit=pair.wanted.unit)
    )
    pair.key.write_bytes(private_key_pem(key))
