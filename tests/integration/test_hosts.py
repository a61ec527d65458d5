"""The harness of several hosts on one machine: what lies between them, who may read what, and that nothing is left."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from examples.hosts.host import ROOT, HostError
from examples.hosts.hosts import CAPTURE, Hosts, why_not
from examples.hosts.link import Link
from examples.hosts.secrecy import find_strays, read_secrets
from examples.hosts.wire import read_streams

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

DELAY_MS = 40
ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 7051), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    while content := connection.recv(65536):
        connection.sendall(content)
"""
ASK = """
import socket, sys, time
began = time.monotonic()
connection = socket.create_connection((sys.argv[1], 7051), timeout=float(sys.argv[2]))
connected = time.monotonic()
connection.sendall(sys.argv[3].encode())
assert connection.recv(65536).decode() == sys.argv[3]
print(connected - began, time.monotonic() - connected)
"""
TALK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7051))
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(65536).decode(), end="", flush=True)
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    directory = tmp_path_factory.mktemp("hosts") / "stage"
    with Hosts.make(directory, ["alpha", "beta", "gamma"], Link(delay_ms=DELAY_MS, loss=0.001)) as made:
        yield made


@contextlib.contextmanager
def echoing(hosts: Hosts, name: str, address: str = "") -> Iterator[str]:
    """Have a host answer everything that it is sent; yield the name that others reach it by."""
    host = hosts[name]
    program = host.open([sys.executable, "-c", ECHO, address or host.place.address])
    try:
        assert program.hear() == "listening"
        yield address or host.place.domain_name
    finally:
        program.close()


def ask(hosts: Hosts, name: str, address: str, text: str = "hello", timeout_s: float = 10) -> tuple[float, float]:
    printed = hosts[name].run([sys.executable, "-c", ASK, address, str(timeout_s), text])
    connecting, answering = map(float, printed.split())
    return connecting, answering


@pytest.mark.parametrize("number", ["name", "long address"])
def test_there_and_back_takes_twice_the_delay(hosts: Hosts, number: str) -> None:
    address = "" if number == "name" else hosts["beta"].place.long_address
    with echoing(hosts, "beta", address) as reached:
        times = [one for _ in range(3) for one in ask(hosts, "alpha", reached)]
    assert min(times) >= 2 * DELAY_MS / 1000
    # Loss and a busy machine delay some, never all.
    assert min(times) < 2 * DELAY_MS / 1000 + 0.1


def test_a_hosts_own_loopback_is_not_this_machines(hosts: Hosts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        reach = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=2)"
        with pytest.raises(HostError, match="Connection refused"):
            hosts["alpha"].run([sys.executable, "-c", reach])


def test_a_connection_outlives_a_cut_and_carries_what_was_sent_meanwhile(hosts: Hosts) -> None:
    with echoing(hosts, "beta") as reached:
        talk = hosts["alpha"].open([sys.executable, "-c", TALK, reached])
        try:
            assert talk.ask("before") == "before"
            with hosts.cut_off("beta"):
                talk.say("during")
                with pytest.raises(HostError, match="timed out"):
                    ask(hosts, "gamma", reached, timeout_s=1)
            assert talk.hear() == "during"
        finally:
            talk.close()


def test_a_slow_link_is_slow_both_ways_and_others_are_not(hosts: Hosts) -> None:
    with echoing(hosts, "beta") as reached:
        hosts.set_link("alpha", "beta", Link(delay_ms=300))
        try:
            assert ask(hosts, "alpha", reached)[1] >= 0.6
            assert min(ask(hosts, "gamma", reached)[1] for _ in range(3)) < 0.4
        finally:
            hosts.set_link("alpha", "beta", Link(delay_ms=DELAY_MS))


def test_a_paused_process_answers_when_it_goes_on(hosts: Hosts) -> None:
    with echoing(hosts, "beta") as reached:
        talk = hosts["alpha"].open([sys.executable, "-c", TALK, reached])
        try:
            assert talk.ask("before") == "before"
            with hosts["beta"].paused("listening") as stopped:
                assert stopped == 1
                talk.say("during")
                states = [process.status() for process in hosts["beta"].processes()]
                assert states == [psutil.STATUS_STOPPED]
            assert talk.hear() == "during"
        finally:
            talk.close()


def test_a_power_cut_ends_everything_at_once_and_the_directory_stays(hosts: Hosts) -> None:
    gamma = hosts["gamma"]
    kept = gamma.write("notes/kept", b"kept")
    # Its child would outlive it anywhere else.
    gamma.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & exit 0"])
    (sleeper,) = gamma.processes()
    assert sleeper.is_running()
    hosts.power_off("gamma")
    assert not sleeper.is_running()
    with pytest.raises(HostError, match="gamma is off"):
        gamma.run(["true"])
    hosts.power_on("gamma")
    assert gamma.run(["cat", str(kept)]) == b"kept"
    assert gamma.processes() == []
    with echoing(hosts, "gamma") as reached:
        assert ask(hosts, "alpha", reached)


def test_each_user_reads_its_own_directory_only(hosts: Hosts) -> None:
    for host in hosts.values():
        host.write("private/key.pem", b"the content of a key")
    hosts.count()
    for host in hosts.values():
        own = str(host.directory)
        seen = json.loads(host.run([sys.executable, "-m", "examples.hosts.look", str(hosts.directory)]))
        assert f"{own}/private/key.pem" in seen["files"]
        others = [path for path in seen["files"] + seen["directories"] if not path.startswith(own)]
        assert [
            Path(path).name for path in others if path.startswith(tuple(map(str, other_places(hosts, host.name))))
        ] == []
        assert str(hosts.directory / CAPTURE) not in others
        with pytest.raises(HostError, match="Permission denied"):
            host.run(["cat", str(other_places(hosts, host.name)[0] / "private/key.pem")])


def other_places(hosts: Hosts, name: str) -> list[Path]:
    return [host.directory for host in hosts.values() if host.name != name]


def test_a_key_that_goes_over_the_wire_or_by_hand_is_found_out(hosts: Hosts) -> None:
    alpha = hosts["alpha"]
    make = (
        "from cryptography.hazmat.primitives.asymmetric import ec\n"
        "from cryptography.hazmat.primitives import serialization as s\n"
        "key = ec.generate_private_key(ec.SECP256R1())\n"
        "print(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode())"
    )
    path = alpha.write("own.pem", alpha.run([sys.executable, "-c", make]))
    secrets = {"alpha": read_secrets(alpha.directory)}
    assert [secret.path for secret in secrets["alpha"]] == [path]
    with echoing(hosts, "beta") as reached:
        ask(hosts, "alpha", reached, "a greeting")
        hosts.count()
        clean = [("wire", stream) for stream in read_streams(hosts.directory / CAPTURE)]
        assert any(b"a greeting" in stream for _, stream in clean)
        assert find_strays(secrets, {"the wire": clean}) == []
        ask(hosts, "alpha", reached, path.read_text())
    hosts.count()
    dirty = [("wire", stream) for stream in read_streams(hosts.directory / CAPTURE)]
    assert find_strays(secrets, {"the wire": dirty}) == [f"{path} stands in wire"] * 2


def test_what_is_handed_over_is_the_receivers_and_a_copy_is_kept(hosts: Hosts) -> None:
    public = hosts["alpha"].write("member.json", b"{}")
    there = hosts.hand_over("alpha", public, "beta", "members/alpha.json")
    assert there.stat().st_uid == hosts["beta"].place.user
    assert hosts["beta"].run(["cat", str(there)]) == b"{}"
    assert [path.read_bytes() for path in (hosts.directory / "handed").iterdir()] == [b"{}"]
    with pytest.raises(HostError, match="is not a file of beta"):
        hosts.hand_over("beta", public, "alpha", "again.json")


def test_a_closed_host_opens_connections_and_takes_none(hosts: Hosts) -> None:
    hosts.close_ports("gamma")
    with echoing(hosts, "beta") as reached:
        assert ask(hosts, "gamma", reached)
    with echoing(hosts, "gamma") as reached, pytest.raises(HostError, match="timed out"):
        ask(hosts, "alpha", reached, timeout_s=0.5)
    assert hosts.count()["refused"] > 0


def test_a_failed_command_tells_its_last_words(hosts: Hosts) -> None:
    with pytest.raises(HostError, match=r"alpha: sh -c .* ended with 3\nno such luck"):
        hosts["alpha"].run(["sh", "-c", "echo no such luck >&2; exit 3"])
    with pytest.raises(HostError, match="was not done within 0 s"):
        hosts["alpha"].run(["sleep", "100"], timeout_s=0.2)
    assert hosts["alpha"].processes() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_runner_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from examples.hosts.hosts import Hosts\nfrom examples.hosts.link import Link\n"
        f"with Hosts.make(Path({str(tmp_path / 'stage')!r}), ['alpha', 'beta'], Link()) as hosts:\n"
        "    hosts['alpha'].run(['sh', '-c', 'setsid sleep 1000 >/dev/null 2>&1 & exit 0'])\n"
        "    hosts['beta'].start('sleep', ['sleep', '1000'], Path(os.devnull))\n"
        "    print(*(one.pid for host in hosts.values() for one in host.processes()), flush=True)\n"
        "    time.sleep(1000)\n"
    )
    runner = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert runner.stdout is not None
    with runner.stdout:
        sleepers = [psutil.Process(int(pid)) for pid in runner.stdout.readline().split()]
        helpers = psutil.Process(runner.pid).children()
        assert len(sleepers) == 2
        assert len(helpers) == 4, "two hosts' first processes, one of their children, and the relay"
        runner.send_signal(number)
        runner.wait()
    _, alive = psutil.wait_procs([*sleepers, *helpers], timeout=20)
    assert alive == []


def test_a_user_that_is_not_root_is_told_so(tmp_path: Path) -> None:
    script = "from examples.hosts.hosts import why_not; print(why_not())"
    with Hosts.make(tmp_path / "stage", ["alpha"], Link()) as hosts:
        assert b"need root" in hosts["alpha"].run([sys.executable, "-c", script])
