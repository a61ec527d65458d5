"""Settings of all tests, and the ledgers that they run on."""

import fcntl
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

from support.ledgers import LEDGERS, LedgerPlan
from support.played_ledger import Played, find_played, play

# A busy machine is no failure.
settings.register_profile("blockfl", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=1000)
settings.register_profile("quick", deadline=None, max_examples=20)
settings.load_profile("blockfl")

SLOW_S = 1800
PLAN = pytest.StashKey[LedgerPlan]()
_LONGEST = {"e2e": 0, "integration": 1}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ledgers")
    text = "run on this ledger (may be repeated); default: each that this machine offers"
    group.addoption("--ledger", action="append", choices=sorted(LEDGERS), default=[], help=text)
    text = "fail where no test ran on this ledger (may be repeated)"
    group.addoption("--require", action="append", choices=sorted(LEDGERS), default=[], help=text)


def pytest_configure(config: pytest.Config) -> None:
    # Whoever ends a run early gets what Ctrl-C gives: every network that a test has started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    is_worker = hasattr(config, "workerinput")
    required = [] if is_worker else config.getoption("require")
    config.stash[PLAN] = LedgerPlan(asked=config.getoption("ledger"), required=required)
    config.pluginmanager.register(LedgerCount(config.stash[PLAN]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "ledger_kind" in metafunc.fixturenames:
        chosen = metafunc.config.stash[PLAN].chosen
        # A contract of the test's own runs in the test's process: containers run the product's.
        if "federation" not in metafunc.fixturenames:
            chosen = [name for name in chosen if name != "compose"]
        metafunc.parametrize("ledger_kind", chosen, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        # Of several workers none shall begin with minutes of work when the others have nothing left.
        items.sort(key=lambda item: _LONGEST.get(item.path.parent.name, len(_LONGEST)))
    for item in items:
        # Their networks alone take a busy machine longer than a test may otherwise; each wait has its own limit.
        if item.get_closest_marker("timeout") is None and (
            item.get_closest_marker("slow") or "ledger_kind" in getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.timeout(SLOW_S))


@pytest.fixture(scope="session")
def ledger_kind(request: pytest.FixtureRequest) -> str:
    """The name of the ledger that a test runs on."""
    name: str = request.param
    if reason := LEDGERS[name]():
        pytest.fail(f"the {name} ledger was asked for and cannot run: {reason}", pytrace=False)
    return name


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Played:
    """The evidence of a ledger with a history worth telling, played once for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "played"
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return find_played(directory) or play(directory)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    parameters = getattr(item, "callspec", None)
    if parameters is not None and "ledger_kind" in parameters.params:
        report.user_properties.append(("ledger", parameters.params["ledger_kind"]))
    return report


class LedgerCount:
    """Counts the tests that ran on each ledger, in the process that starts the run: its workers only report."""

    def __init__(self, plan: LedgerPlan) -> None:
        self._plan = plan

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        ledger = dict(report.user_properties).get("ledger")
        if report.when == "call" and not report.skipped and isinstance(ledger, str):
            self._plan.ran[ledger] = self._plan.ran.get(ledger, 0) + 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    plan = config.stash[PLAN]
    terminalreporter.write_line(f"ledgers: {plan.summary()}")
    for name, reason in plan.missing().items():
        terminalreporter.write_line(f"ERROR: --require {name}: no test ran on it: {reason}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and session.config.stash[PLAN].missing():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
