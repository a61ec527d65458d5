"""A directory with a network, or with one organisation's part of it: up, status, logs, stop, down.

Example:
    network = Network.prepare(Path("network-data"), None, "embedded")
    network.up(print)
"""

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from blockfl.network.admission import extend, write_description
from blockfl.network.adoption import AdoptedPart
from blockfl.network.backup import Backup, back_up
from blockfl.network.code_change import Agreement, agree_on_code
from blockfl.network.description import Description, LedgerKind
from blockfl.network.embedded import EmbeddedLauncher
from blockfl.network.errors import NetworkError
from blockfl.network.foundation import found, list_hosts
from blockfl.network.founding import Founding, load_founding, load_record, require_orderers
from blockfl.network.guest import GuestRuntime
from blockfl.network.host import Host
from blockfl.network.identities import write_file
from blockfl.network.launcher import Launcher
from blockfl.network.layout import Layout, is_part
from blockfl.network.local import LocalLauncher
from blockfl.network.membership import describe_members, find_roles, require_successor
from blockfl.network.process import ProcessTable, require_unused
from blockfl.network.project import ComposeProject
from blockfl.network.renewal import Renewal
from blockfl.network.runtime import ProcessRuntime, Report, Runtime
from blockfl.network.snapshot import unpack_snapshot
from blockfl.network.state import NetworkState
from blockfl.network.status import ProcessStatus
from blockfl.protocol.records import Consortium

_PATIENCE_S = 86_400.0
_OTHERWISE = "use another directory, or take it down first"


class Part:
    """What of a network is in one directory, and what can be done with it while it runs or not."""

    def __init__(self, directory: Path, name: str, ledger: LedgerKind, runtime: Runtime, hosts: Sequence[Host]) -> None:
        self.directory = directory
        self.hosts = hosts
        self.name = name
        self.ledger = ledger
        self._runtime = runtime

    def status(self) -> list[ProcessStatus]:
        """Return how everything is that runs, or should."""
        return self._runtime.status()

    def logs(self, name: str, lines: int) -> str:
        """Return the last lines of a process's log.

        Raises:
            NetworkError: There is no such process.
        """
        return self._runtime.logs(name, lines)

    def stop(self) -> list[str]:
        """Stop everything; the ledger stays."""
        with self._exclusive():
            return self._runtime.stop()

    def back_up(self, output: Path, *, with_ledger: bool = False) -> Backup:
        """Write a copy of what nobody else has; with ledgers only while nothing runs.

        Args:
            output: The file.
            with_ledger: Whether to take the peers' ledgers; that of the embedded node, the only one, always is.

        Raises:
            NetworkError: The network runs, or the file cannot be written.
        """
        has_ledger = with_ledger or self.ledger == "embedded"
        with self._exclusive():
            if has_ledger:  # it can be copied only while nothing writes it
                require_unused(self.directory)
            return back_up(self.directory, output, has_ledger=has_ledger)

    def down(self) -> None:
        """Stop everything and delete the directory.

        Raises:
            NetworkError: A process that is not known here still writes there.
        """
        with self._exclusive():
            self._runtime.down()
            require_unused(self.directory)
        shutil.rmtree(self.directory)

    @contextmanager
    def renewal(self) -> Iterator[Renewal]:
        """Keep other commands from changing the network, and yield what renews its certificates."""
        with self._exclusive():
            yield self._runtime.renewal()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep two commands from changing one network at the same time."""
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise NetworkError(
                    f"another blockfl network command is changing {self.directory}; wait until it is done"
                ) from error
            yield


class HostPart(Part):
    """One organisation's part, on its own host.

    Args:
        host: The organisation, and where its files lie.
    """

    def __init__(self, host: Host, ledger: LedgerKind = "local") -> None:
        self.host = host
        self._adopted = AdoptedPart(host) if host.layout.adopted.exists() else None
        super().__init__(host.layout.directory, host.name, ledger, self._make_runtime(ledger), [host])

    @classmethod
    def open(cls, directory: Path, ledger: LedgerKind | None = None) -> Self:
        """Return the organisation's part that a directory holds.

        Args:
            directory: The organisation's own.
            ledger: ``local`` for processes or ``compose`` for containers; by default as it was brought up.

        Raises:
            NetworkError: It holds none, or runs otherwise.
        """
        host, state = Host.open(directory), Layout(directory).state
        known = _load_state(directory).ledger if state.exists() else None
        if known is not None and ledger not in (None, known):
            raise NetworkError(f"{directory} runs in containers, not as processes; stop it and delete {state} first")
        if ledger == "embedded":
            raise NetworkError("one organisation's part runs on real Fabric: --ledger local or compose")
        return cls(host, known or ledger or "local")

    def up(
        self,
        report: Report,
        agreement: Agreement | None = None,
        founding: Path | None = None,
        consortium: Path | None = None,
        timeout_s: float = _PATIENCE_S,
        snapshot: Path | None = None,
    ) -> None:
        """Start this organisation's part, wait for the others', and bring the contract up with them.

        Args:
            report: Told what is done and who is waited for.
            agreement: Which code of the contract may take the place of the network's; by default none.
            founding: The founding file, all founders' signatures beside it; the first time only.
            consortium: The record of the members that the organisation agrees to from now on; by default as before.
            timeout_s: How long to wait for the others.
            snapshot: From which a peer without a ledger joins the channel, where that is not its first block.

        Raises:
            NetworkError: The founding file is not what this organisation agreed to, a port is taken, a process ends, or
                the others are not there in time.
        """
        record = None if consortium is None else load_record(Consortium, consortium, "the consortium's record")
        if record is not None and founding is None and self._take_roles(record, report):
            HostPart.open(self.directory, self.ledger).up(report, agreement, founding, consortium, timeout_s, snapshot)
            return
        with self._exclusive():
            if self._adopted is not None:
                if record is not None:
                    write_file(self.host.layout.consortium, self._agree_on_members(record, report).encode())
                self._adopted.up(report, agreement or Agreement(), timeout_s)
                return
            self._runtime.require()
            founded, agreed = self.adopt(founding, record), (agreement or Agreement()).remember()
            members = self._agree_on_members(record, report)
            if self.ledger == "compose":  # a container does the rest, with the image's code
                write_file(self.host.layout.consortium, members.encode())
            else:
                if self.host.organisation.has_peer:
                    agree_on_code(self.host.layout.package, founded.terms.contract, agreed)
                self.host.agree(founded, members)
            if snapshot is not None:
                digest = unpack_snapshot(snapshot, self.host.layout)
                report(f"snapshot {digest}: compare it with what another organisation's peer writes of the same block")
            report(f"founding {founded.record_digest[:16]}…, first block {self.host.genesis_digest[:16]}…")
            self._runtime.up(report, agreed, timeout_s)
            report(
                f"{self.name} is part of the network {founded.terms.network}; its connection profiles: "
                f"{self.host.layout.profile('agent').parent}"
            )

    def _agree_on_members(self, record: Consortium | None, report: Report) -> Consortium:
        former = self.host.load_consortium()
        if record is not None:
            require_successor(former, record)
            for line in describe_members(former, record):
                report(f"members: {line}")
        agreed, own = record or former, self.host.organisation
        if set(roles := find_roles(agreed, own.msp_id)) != set(own.roles):
            raise NetworkError(
                f"the record has {self.name} as {', '.join(roles)}, and its own directory as {', '.join(own.roles)}"
            )
        return agreed

    def _take_roles(self, record: Consortium, report: Report) -> bool:
        """Have the organisation's part take the roles that a record gives it; return whether they are others."""
        roles = find_roles(record, self.host.organisation.msp_id)
        if set(roles) == set(self.host.organisation.roles):
            return False
        if self._adopted is not None:
            raise NetworkError(
                f"the record has {self.name} as {', '.join(roles)}, and its own directory as "
                f"{', '.join(self.host.organisation.roles)}: adopt the channel with the record in another directory"
            )
        with self._exclusive():
            require_successor(self.host.load_consortium(), record)
            self.host.take_roles(roles)
        report(f"{self.name} becomes {', '.join(roles)}")
        return True

    def adopt(self, path: Path | None, record: Consortium | None = None) -> Founding:
        """Take over what was founded; without a file, return what was taken over before.

        Args:
            path: The founding file, all founders' signatures beside it.
            record: The record of the members that an organisation is in which joins later.

        Raises:
            NetworkError: The founding file is not what this organisation agreed to, or there is none.
        """
        if path is None:
            return self.host.require_founding()
        founding, signatures = load_founding(path)
        joins = self.name not in [one.name for one in founding.memberships]
        if joins and record is None:
            raise NetworkError(
                f"{self.name} is none of the founders ({', '.join(one.name for one in founding.memberships)}): to "
                "join what they have founded, name the record of the members that it is in: --consortium FILE"
            )
        self.host.adopt(founding, signatures, joins=joins)
        return founding

    def _make_runtime(self, ledger: LedgerKind) -> Runtime:
        host, directory = self.host, self.host.layout.directory
        if self._adopted is not None:
            return self._adopted.runtime()
        if ledger == "compose":
            return ComposeProject.of_host(host)
        if not host.organisation.has_peer:
            return GuestRuntime(host)
        processes = ProcessTable(directory)
        return ProcessRuntime([host], directory, LocalLauncher([host], processes), processes)


class Network(Part):
    """One network with all its organisations on this machine."""

    def __init__(self, directory: Path, description: Description, ledger: LedgerKind) -> None:
        self.description = description
        self._layout = Layout(directory)
        self._described = description.for_ledger(ledger)
        hosts = list_hosts(self._described, self._layout)
        super().__init__(directory, description.network, ledger, self._make_runtime(ledger), hosts)

    @classmethod
    def prepare(
        cls, directory: Path, description: Description | None, ledger: LedgerKind, *, base_port: int | None = None
    ) -> Self:
        """Return the network of a directory, new or as it was.

        Args:
            directory: Where everything of the network is kept.
            description: For a new network; None: the default consortium. An existing one keeps its own, or is
                extended by the organisations that are new in this one.
            ledger: Which ledger runs it.
            base_port: First port of a new default consortium.

        Raises:
            NetworkError: The directory holds another network, or something else.
        """
        layout = Layout(directory)
        if layout.state.exists():
            network = cls.open(directory)
            if network.ledger != ledger:
                raise NetworkError(
                    f"{directory} holds a network on the {network.ledger} ledger, not {ledger}; "
                    "use another directory, or take it down first"
                )
            if description is not None and description != network.description:
                network = cls(directory, extend(layout, description, _OTHERWISE), ledger)
            if base_port is not None and Description.load_default(base_port) != network.description:
                raise NetworkError(
                    f"{directory} holds a network on other ports ({layout.description}); use another directory, or "
                    f"take it down first: blockfl network down -d {directory}"
                )
            return network
        try:
            if directory.exists() and any(directory.iterdir()):
                raise NetworkError(f"{directory} is not empty and holds no network; name a new directory")
        except OSError as error:
            raise _not_a_directory(directory, error) from error
        new = description if description is not None else Description.load_default(base_port)
        network = cls(directory, new, ledger)
        network._require()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _not_a_directory(directory, error) from error
        write_description(layout, new)
        NetworkState(ledger=ledger).save(layout.state)
        return network

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Return the network that a directory holds.

        Raises:
            NetworkError: It holds none.
        """
        layout = Layout(directory)
        try:
            state = _load_state(directory)
        except OSError as error:
            raise NetworkError(
                f"{directory} holds no network; bring one up: blockfl network up -d {directory}"
            ) from error
        return cls(directory, Description.load(layout.description), state.ledger)

    def up(self, report: Report, agreement: Agreement | None = None) -> None:
        """Start what does not run, and bring the contract up; what is done already is left as it is.

        Args:
            report: Told what has been done.
            agreement: Which code of the contract may take the place of the network's; by default none.

        Raises:
            NetworkError: A port is taken, a process ends, a step fails; the text says what to do.
        """
        with self._exclusive():
            agreed = (agreement or Agreement()).remember()
            if self.ledger != "compose":
                found(self._described, self._layout, agreed)
            self._runtime.up(report, agreed)
            profiles = self._layout.organisation("NAME").profile("agent")
            report(f"network {self.description.network} is up; connection profiles: {profiles}")

    def _require(self) -> None:
        if self.ledger != "embedded":
            require_orderers(self.description.consensus, [one.name for one in self.description.orderers])
        self._runtime.require()

    def _make_runtime(self, ledger: LedgerKind) -> Runtime:
        if ledger == "compose":
            return ComposeProject.of_machine(self.description, self._layout)
        hosts, processes = list_hosts(self._described, self._layout), ProcessTable(self._layout.directory)
        launcher: Launcher = LocalLauncher(hosts, processes)
        if ledger == "embedded":
            launcher = EmbeddedLauncher(hosts, self._layout, processes)
        return ProcessRuntime(hosts, self._layout.directory, launcher, processes)


def open_part(directory: Path) -> "Network | HostPart":
    """Return what of a network a directory holds: all of it, or one organisation's part.

    Raises:
        NetworkError: It holds neither.
    """
    if is_part(directory):
        return HostPart.open(directory)
    return Network.open(directory)


def _load_state(directory: Path) -> NetworkState:
    try:
        return NetworkState.load(Layout(directory).state)
    except ValueError as error:
        raise NetworkError(
            f'{error}; the file says which ledger runs the network: write {{"ledger": "embedded"}} (or local, '
            "compose) into it again"
        ) from error


def _not_a_directory(directory: Path, error: OSError) -> NetworkError:
    return NetworkError(f"{directory}: no network can be kept there ({error.strerror}); name a new directory with -d")
