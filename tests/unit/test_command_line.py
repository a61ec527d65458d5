"""The ``blockfl`` command: help everywhere, clear errors, exit codes."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest
from examples.port_range import reserve_ports
from typer.testing import CliRunner

from blockfl.cli.economics import _draw, read_policy
from blockfl.cli.main import app
from blockfl.cli.output import Exit, Output
from blockfl.cli.terms import naming_the_field
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import create_private_key, private_key_pem
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.store import ModelStore
from blockfl.network.errors import NetworkError
from blockfl.network.network import Network
from blockfl.network.port import parse_address
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.training import Training
from support.federation_processes import PORTS
from support.organisation import make_organisation

COMMANDS = [
    ["network", "up"],
    ["network", "status"],
    ["network", "logs"],
    ["network", "stop"],
    ["network", "down"],
    ["network", "compose"],
    *(["network", name] for name in ("member", "found", "inspect", "sign")),
    *(["network", name] for name in ("certificates", "renew", "answer")),
    *(
        ["network", "config", name]
        for name in (
            "show",
            "add",
            "remove",
            "revoke",
            "add-root",
            "remove-root",
            "renew-orderer",
            "inspect",
            "sign",
            "submit",
        )
    ),
    *(["network", "contract", name] for name in ("show", "approve", "commit")),
    ["task", "create"],
    ["task", "list"],
    ["task", "show"],
    ["task", "export"],
    ["task", "erase"],
    ["institution", "run"],
    ["aggregator", "run"],
    ["audit", "tasks"],
    ["audit", "rounds"],
    ["audit", "updates"],
    ["audit", "models"],
    *(
        ["audit", name]
        for name in ("credits", "receipts", "withdrawals", "transactions", "history", "lineage", "institution")
    ),
    *(["audit", name] for name in ("rejections", "erasures", "contracts", "members", "export", "report", "compare")),
    ["audit", "check-aggregate"],
    ["audit", "verify"],
    ["audit", "serve"],
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blockfl.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def help_of(*command: str, columns: int = 80) -> str:
    """Return a command's help as words, without the frame around it."""
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": str(columns)})
    return " ".join(result.output.replace("│", " ").split())


def test_the_help_of_the_public_check_says_what_it_takes_and_what_its_exit_codes_mean() -> None:
    said = help_of("audit", "check-aggregate")
    assert "no update is seen" in said
    assert "a task whose check is commitment" in said
    for code in set(Exit) - {Exit.FINDINGS, Exit.NOTHING_CONTRIBUTED}:
        assert f"{code.value}: " in said
    assert f"{Exit.FINDINGS.value} when everything is" in help_of("audit", "verify")


def test_the_help_of_a_task_s_strategy_names_every_parameter_with_default_and_limits() -> None:
    said = help_of("task", "create", columns=300)
    for words in (
        "median, trimmed_mean (trim: 1 to 10000, the values left out at each end, default (minimum - 1) / 2), krum",
        "byzantine: 0 to 10000, the updates to withstand, default (minimum - 3) / 2",
        "selected: 3 to 10000, the updates to average, default minimum - byzantine - 2",
        "clip_l2: 0 to 1000000000, the norm to shorten to, default 0",
        "momentum (learning_rate 1, beta 0.9), adam (learning_rate 0.01, beta1 0.9, tau 0.001, beta2 0.99), yogi",
        "adagrad (learning_rate 0.1, beta1 0, tau 0.001). Allowed are learning_rate 0.000001 to 1000, beta 0 to "
        "0.999999,",
        "rounds, 1 to 32, default 3; factor, 1 to 100, default 1.5; floor, a norm, default 0.01 of --norm-bound",
    ):
        assert words in said


def test_no_word_of_the_help_of_rules_is_cut_off_in_a_narrow_terminal() -> None:
    said = help_of("task", "create")
    for option, following in (
        ("--rule", "--optimiser"),
        ("--optimiser", "--check"),
        ("--adaptive-bound", "--minimum-norm"),
    ):
        part = said[said.index(option) : said.index(following)]
        assert part.replace("KEY=VALUE,…", "").count("…") == 0, part


def test_a_missing_profile_is_one_clear_line_and_exit_code_1(tmp_path: Path) -> None:
    finished = run("audit", "tasks", "--profile", str(tmp_path / "none.json"))
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")
    assert "no connection profile there" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("verbosity", [None, "DEBUG"])
def test_grpc_is_quiet_unless_the_user_wants_otherwise(verbosity: str | None) -> None:
    code = "import os, blockfl.cli.main; print(os.environ['GRPC_VERBOSITY'])"
    given = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    given |= {} if verbosity is None else {"GRPC_VERBOSITY": verbosity}
    said = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True).stdout
    assert said == f"{verbosity or 'ERROR'}\n"


async def test_a_peer_with_another_certificate_is_one_clear_line(tmp_path: Path) -> None:
    """gRPC's own lines about the handshake would come first otherwise."""
    organisation, stranger = make_organisation("hungary"), make_organisation("hungary")
    key = create_private_key()
    certificate = organisation.tls.issue(
        key.public_key(), common_name="peer", unit=None, hosts=("127.0.0.1",), tls=True
    )
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(private_key_pem(key), certificate)]))
    await server.start()
    agent = organisation.signer("agent")
    for name, content in (
        ("roots.pem", stranger.tls.certificate_pem),
        ("certificate.pem", agent.identity.certificate_pem),
        ("key.pem", private_key_pem(agent.private_key)),
    ):
        (tmp_path / name).write_bytes(content)
    profile = ConnectionProfile(
        network="heart",
        channel="federation",
        contract="blockfl",
        organisation="hungary",
        endpoint=f"127.0.0.1:{port}",
        tls_roots="roots.pem",
        certificate="certificate.pem",
        private_key="key.pem",
    )
    profile.save(tmp_path / "agent.json")
    finished = await asyncio.to_thread(run, "network", "config", "show", "--profile", str(tmp_path / "agent.json"))
    await server.stop(0)
    assert finished.returncode == 1
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert finished.stderr.startswith("error: cannot read blocks")


ADDRESSES = ["", "peer", ":7051", "peer:", "peer:0", "peer:65536", "peer:٣٣", "peer:7_051", "peer:" + "9" * 5000]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_peer_s_address_is_a_host_and_a_port_in_plain_digits(address: str) -> None:
    with pytest.raises(IdentityError, match="expected the address of a node as host:port"):
        Endpoint(address=address, tls_roots_pem=make_organisation("hungary").tls.certificate_pem)
    with pytest.raises(NetworkError, match="expected an address as host:port"):
        parse_address(address)


def test_arguments_that_are_no_text_are_one_clear_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blockfl.cli.main", "audit", "rounds", "--profile", str(tmp_path), "--task"]
    finished = subprocess.run(
        [*map(os.fsencode, command), b"\xff\x1b[31m"], capture_output=True, check=False, timeout=60
    )
    assert finished.returncode == 2
    assert finished.stderr == b"error: expected arguments in UTF-8, got \\udcff\\x1b[31m\n"


def test_what_is_printed_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    hostile = "heart\x1b[2J\x9b\r\u202e\ud800 ♥\n"
    output.table("tasks", [{"title": hostile, "names": [hostile]}], ["title", "names"])
    output.line(hostile)
    output.progress(hostile)
    output.error(hostile)
    said = capsys.readouterr()
    for text, times in ((said.out, 3), (said.err, 2)):
        assert text.count(r"heart\x1b[2J\x9b\r\u202e\ud800 ♥") == times
        assert not set(text) & set("\x1b\x9b\r\u202e")


def test_what_others_wrote_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    hostile = "[/x] [bold]loud[/bold] [link=https://example.org]here[/link] :smile: \\["
    output.table(hostile, [{hostile: hostile, "names": [hostile]}], [hostile, "names"])
    output.line(hostile)
    output.progress(hostile)
    output.error(hostile)
    said = capsys.readouterr()
    assert said.out.count(hostile) == 5
    assert said.err.count(hostile) == 2


def test_an_unknown_option_is_a_usage_error() -> None:
    assert run("audit", "tasks", "--no-such-option").returncode == 2


def test_status_of_a_directory_without_a_network_says_how_to_make_one(tmp_path: Path) -> None:
    finished = run("network", "status", "--directory", str(tmp_path))
    assert finished.returncode == 1
    assert "holds no network; bring one up" in finished.stderr


def test_a_task_needs_exactly_one_initial_model(tmp_path: Path) -> None:
    finished = run("task", "create", "heart", "--profile", str(tmp_path / "none.json"))
    assert finished.returncode == 2
    assert "exactly one of --model, --code and --initial" in finished.stderr


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_network_is_not_brought_up_where_no_directory_can_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NetworkError, match=r"no network can be kept there .* name a new directory with -d"):
        Network.prepare(tmp_path / place, None, "embedded", base_port=reserve_ports(PORTS))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_models_are_not_kept_where_no_directory_can_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LedgerError, match=r"expected a directory to keep models in .* name another one"):
        ModelStore(tmp_path / place)


@pytest.mark.parametrize("name", ["q", "Ä", "Hungary", "hun gary", "-hungary", "h" * 33])
def test_an_organisation_has_a_name_that_can_be_one(tmp_path: Path, name: str) -> None:
    command = ["network", "member", "--role", "institution", "--directory", str(tmp_path / "host"), "--", name]
    refused = CliRunner().invoke(app, command).exception
    assert isinstance(refused, NetworkError)
    assert str(refused).startswith("name: ")
    assert not (tmp_path / "host").exists()
    assert CliRunner().invoke(app, [*command[:-1], "hungary"]).exit_code == 0


@pytest.mark.parametrize("content", [b"", b"x", b"\xff", b"[" * 100_000, b"9" * 100_000, b'{"reward_pool": NaN}'])
def test_a_policy_that_is_none_is_refused_with_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.json"
    path.write_bytes(content)
    with pytest.raises((LedgerError, ProtocolError), match=r"policy\.json: expected|BFL301"):
        read_policy(str(path))


def test_a_plot_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(LedgerError, match="the plot cannot be written"):
        _draw([], tmp_path / "none" / "plot.svg")


def test_a_network_is_not_brought_up_in_somebody_elses_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    finished = run("network", "up", "--directory", str(tmp_path))
    assert finished.returncode == 1
    assert "is not empty and holds no network" in finished.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_ports_for_a_network_that_exists_are_refused_with_what_to_do(tmp_path: Path) -> None:
    base_port = reserve_ports(PORTS)
    Network.prepare(tmp_path / "network", None, "embedded", base_port=base_port)
    again = Network.prepare(tmp_path / "network", None, "embedded", base_port=base_port)
    assert again.description.base_port == base_port
    with pytest.raises(NetworkError, match=r"on other ports .*take it down first: blockfl network down"):
        Network.prepare(tmp_path / "network", None, "embedded", base_port=base_port + 1)


def test_a_port_that_is_taken_is_found_before_anything_is_written(tmp_path: Path) -> None:
    base_port = reserve_ports(PORTS)
    with socket.create_server(("127.0.0.1", base_port)):
        with pytest.raises(NetworkError, match=f"in use: 127.0.0.1:{base_port} for node"):
            Network.prepare(tmp_path / "network", None, "embedded", base_port=base_port)
        assert not (tmp_path / "network").exists()
    Network.prepare(tmp_path / "network", None, "embedded", base_port=base_port)


def test_a_task_that_cannot_be_is_refused_with_the_field_and_the_reason() -> None:
    with pytest.raises(LedgerError, match=r"no such task can be: batch_size: .*; got 0"), naming_the_field():
        Training(epochs=1, batch_size=0, learning_rate_micro=0)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("final.keras", (), "name the task's model with --model"),
        ("final.keras", ("--format", "safetensors"), "expected an --output named .safetensors"),
        ("final.h5", (), "expected an --output named .safetensors, .npz, .keras"),
    ],
)
def test_a_model_is_not_exported_under_the_name_of_another_format(
    tmp_path: Path, name: str, options: tuple[str, ...], words: str
) -> None:
    output = tmp_path / name
    command = ["task", "export", "heart", "-p", "profile.json", "--output", str(output), *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == Exit.USAGE
    assert words in result.stderr
    assert not output.exists()
