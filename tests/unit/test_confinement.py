"""Confinement, tried by a process of the same user; and the filter's program, run instruction by instruction."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import psutil
import pytest

from blockfl.institution import landlock, seccomp
from blockfl.institution.confinement import Reach, confine, list_devices, list_grants, list_libraries
from blockfl.institution.errors import ConfinementError
from blockfl.institution.seccomp import Instruction, compile_filter
from support import intruder
from support.sanctum import Sanctum, open_sanctum

CONTROLS = {
    "read the key", "list the key's directory", "read the key through a symbolic link", "read the key in a thread",
    "link the key into the scratch directory", "read the key in a program", "read the key through /proc/self/root",
    "write the key", "change the key's mode", "change the key's owner",
    "move the key into the scratch directory", "remove the key", "truncate the key", "write beside the key",
    "write to /tmp", "read another user's file", "read the agent's environment", "signal the agent",
    "signal the agent's group", "signal the agent by descriptor", "limit the agent", "connect to the ledger", "listen",
    "send a datagram", "connect to a unix socket", "connect to an abstract socket",
    "send through a re-addressed pair", "leave its session", "empty the rows by reading them",
    "empty the rows by neither reading nor writing", "open by what no filter can read", "have a pipe signal the agent",
    "have a socket signal the agent", "have a pipe signal when it is ready", "slow the agent",
    "bind the agent to a processor", "schedule the agent", "slow the agent's disk", "date another file",
    "watch the key's directory", "outlive the agent",
}  # fmt: skip
"""What the same user may do anywhere; the rest depends on the kernel's settings."""

needs_landlock = pytest.mark.skipif(landlock.read_version() < 1, reason="this kernel offers no Landlock")


LANDLOCK_OF_KERNEL = {"5.13": 1, "5.15": 1, "6.1": 2, "6.6": 3, "6.12": 6, "today's": 99}
"""The version of Landlock that each long-term kernel offers."""


def run_intruder(home: Path, landlock_version: int) -> tuple[dict[str, Any], Sanctum]:
    """Let the intruder try in a process of its own, confined with no more rights than a version of Landlock knows."""
    with open_sanctum(home) as sanctum:
        arguments = [str(sanctum.target), str(sanctum.scratch), str(landlock_version)]
        done = subprocess.run(
            [sys.executable, "-P", intruder.__file__, *arguments],
            capture_output=True,
            timeout=60,
            check=False,
            start_new_session=True,
        )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout), sanctum


@needs_landlock
@pytest.mark.parametrize("kernel", LANDLOCK_OF_KERNEL)
def test_a_confined_process_of_the_same_user_reaches_nothing(tmp_path: Path, kernel: str) -> None:
    results, sanctum = run_intruder(tmp_path, LANDLOCK_OF_KERNEL[kernel])

    assert [name for name, result in results["attempts"].items() if result == "worked"] == []
    assert sanctum.victim.read_text() == sanctum.rows.read_text() == "secret"
    assert sanctum.victim.stat().st_mode & 0o777 == sanctum.key.stat().st_mode & 0o777
    assert not (tmp_path / "outside.txt").exists()


@needs_landlock
@pytest.mark.parametrize("kernel", LANDLOCK_OF_KERNEL)
def test_a_confined_process_does_everything_ordinary(tmp_path: Path, kernel: str) -> None:
    results, _ = run_intruder(tmp_path, LANDLOCK_OF_KERNEL[kernel])

    assert results["problems"] == []


def test_unconfined_the_same_attempts_work(tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    results, _ = run_intruder(tmp_path, 0)

    attempts = results["attempts"]
    assert set(attempts) >= CONTROLS
    assert {name: attempts[name] for name in CONTROLS if attempts[name] != "worked"} == {}


# What is granted


def make_reach(home: Path, **changes: Any) -> Reach:
    fields: dict[str, Any] = {"readable": (), "scratch": home / "scratch", "private": (home / "agent",)} | changes
    return Reach(**fields)


def test_the_users_files_are_read_only_and_the_scratch_directory_is_not(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    grants = {grant.path: grant.access for grant in list_grants(make_reach(tmp_path, readable=(data,)))}

    assert grants[data] & landlock.WRITE_FILE == 0
    assert grants[tmp_path / "scratch"] & landlock.WRITE_FILE
    writable = {path for path, access in grants.items() if access & landlock.WRITE_FILE}
    assert writable == {tmp_path / "scratch", Path("/dev/null"), Path("/dev/zero"), Path("/dev/full")}


def make_devices(home: Path) -> Path:
    """A directory of devices as that of a machine with one GPU, of plain files."""
    devices = home / "dev"
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-caps/nvidia-cap1", "mem", "sda", "shm/other"):
        (devices / name).parent.mkdir(parents=True, exist_ok=True)
        (devices / name).write_text(name)
    return devices


def test_gpus_and_shared_memory_are_granted_only_where_the_institution_says_so(tmp_path: Path) -> None:
    devices = make_devices(tmp_path)
    assert list_devices(make_reach(tmp_path), devices) == ()
    gpu = {one.path: one.access for one in list_devices(make_reach(tmp_path, gpu=True), devices)}
    own = {path.name for path in gpu if path.is_relative_to(devices)}
    assert own == {"nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-caps"}
    asked = landlock.READ_FILE | landlock.WRITE_FILE | landlock.IOCTL_DEVICE
    assert all(gpu[devices / name] & asked == asked for name in own)
    assert {access & landlock.WRITE for path, access in gpu.items() if not path.is_relative_to(devices)} == {
        landlock.READ_FILE | landlock.READ_DIR
    }
    (shared,) = list_devices(make_reach(tmp_path, shared_memory=True), devices)
    assert (shared.path, shared.access) == (devices / "shm", landlock.WRITE)


def test_a_gpu_that_is_not_there_is_told(tmp_path: Path) -> None:
    for choice, words in (
        ({"gpu": True}, r"nvidia\* is there: .*leave --gpu out"),
        ({"shared_memory": True}, "no .*shm"),
    ):
        with pytest.raises(ConfinementError, match=words):
            list_devices(make_reach(tmp_path, **choice), tmp_path)


REACH_DEVICES = """
import sys
from pathlib import Path
from blockfl.institution import landlock, confinement
home, gpu = Path(sys.argv[1]), sys.argv[2] == "gpu"
reach = confinement.Reach(readable=(), scratch=home / "scratch", private=(), gpu=gpu)
landlock.set_no_new_privileges()
landlock.restrict([one for one in confinement.list_devices(reach, home / "dev") if one.path.is_relative_to(home)])
for name in ("nvidia0", "nvidia-caps/nvidia-cap1", "mem", "shm/other"):
    try:
        with open(home / "dev" / name, "r+b", buffering=0) as device:
            device.write(b"x")
        print(name)
    except PermissionError:
        pass
"""


@needs_landlock
@pytest.mark.parametrize(("choice", "reached"), [("none", []), ("gpu", ["nvidia0", "nvidia-caps/nvidia-cap1"])])
def test_the_kernel_lets_through_what_is_granted_of_devices(tmp_path: Path, choice: str, reached: list[str]) -> None:
    make_devices(tmp_path)
    command = [sys.executable, "-c", REACH_DEVICES, str(tmp_path), choice]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == reached


def test_no_home_and_no_working_directory_is_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", ".", *(place for place in sys.path if place != str(Path.cwd()))])
    granted = {grant.path for grant in list_grants(make_reach(tmp_path))}

    assert not granted & {Path.cwd(), Path.home(), Path("/"), Path("/tmp"), Path("/etc"), Path("/proc")}
    assert set(list_libraries()) <= granted


def test_a_readable_directory_around_the_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfinementError, match=r"agent must stay out of reach .* but lies in .*: move one of them"):
        list_grants(make_reach(tmp_path, readable=(tmp_path,)))


def test_a_key_among_the_libraries_is_refused(tmp_path: Path) -> None:
    key = Path(sys.prefix) / "key.pem"

    with pytest.raises(ConfinementError, match="must stay out of reach"):
        list_grants(make_reach(tmp_path, private=(key,)))


def test_data_inside_the_agents_directory_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "agent" / "data.npz"

    with pytest.raises(ConfinementError, match=r"which lies in .*, the agent's own: move it elsewhere"):
        list_grants(make_reach(tmp_path, readable=(data,)))


def test_a_symbolic_link_to_the_agents_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "agent")

    with pytest.raises(ConfinementError, match="must stay out of reach"):
        list_grants(make_reach(tmp_path, readable=(link,)))


def test_without_landlock_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "read_version", lambda: 0)

    with pytest.raises(ConfinementError, match=r"no Landlock: expected Linux 5\.13 or later"):
        landlock.restrict([])


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")

    with pytest.raises(ConfinementError, match="no system call filter for riscv64: expected one of aarch64, x86_64"):
        seccomp.install(signals_scoped=True)


def test_other_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(ConfinementError, match="needs Linux, this is darwin"):
        confine(make_reach(tmp_path))


def test_a_process_with_threads_is_refused(tmp_path: Path) -> None:
    """Threads that run already would stay free."""
    script = (
        "import threading; e = threading.Event(); threading.Thread(target=e.wait, daemon=True).start()\n"
        "from pathlib import Path; from blockfl.institution.confinement import Reach, confine\n"
        f"confine(Reach(readable=(), scratch=Path({str(tmp_path)!r}), private=()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)

    assert b"2 threads run already" in done.stderr


# The filter

ALLOW, KILL = 0x7FFF0000, 0x80000000


def run_filter(program: tuple[Instruction, ...], architecture: int, number: int, *arguments: int) -> int:
    """Run a classic BPF program as the kernel does; return its verdict."""
    words = {0: number, 4: architecture}
    for index in range(6):
        value = arguments[index] if index < len(arguments) else 0
        words[16 + 8 * index], words[20 + 8 * index] = value & 0xFFFFFFFF, value >> 32
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x20:
            accumulator = words[operand]
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            at += if_true if holds[code] else if_false


def refusal(error: int) -> int:
    return 0x00050000 | error


MACHINES = sorted(seccomp._MACHINES.items())


@pytest.mark.parametrize(("name", "machine"), MACHINES, ids=[name for name, _ in MACHINES])
@pytest.mark.parametrize("scoped", [True, False])
def test_the_filter_refuses_what_it_names_and_allows_the_rest(
    name: str, machine: seccomp.Machine, scoped: bool
) -> None:
    program = compile_filter(machine, pid=4242, signals_scoped=scoped)
    calls = machine.calls

    def verdict(call: str, *arguments: int) -> int:
        return run_filter(program, machine.audit, calls[call], *arguments)

    for call in calls.keys() - seccomp._CONDITIONAL:
        assert verdict(call) == refusal(errno.EPERM), call
    for call in ("clone3", "openat2", "io_uring_setup", "io_uring_enter", "io_uring_register"):
        assert verdict(call) == refusal(errno.ENOSYS), call
    for call in {"utimensat", "utime", "utimes", "futimesat"} & calls.keys():
        assert verdict(call) == refusal(0), call
    for call, flags in {"open": (0,), "openat": (0, 0)}.items():
        if call in calls:
            for mode in (os.O_WRONLY, os.O_RDWR):
                assert verdict(call, *flags, mode | os.O_TRUNC | os.O_CREAT) == ALLOW
            assert verdict(call, *flags, os.O_RDONLY | os.O_CLOEXEC) == verdict(call, *flags, 3) == ALLOW
            for mode in (os.O_RDONLY, 3):
                assert verdict(call, *flags, mode | os.O_TRUNC) == refusal(errno.EPERM)
    for command in (fcntl.F_SETOWN, fcntl.F_SETSIG, 15, fcntl.F_SETLEASE, fcntl.F_NOTIFY):
        assert verdict("fcntl", 5, command) == refusal(errno.EPERM)
    assert verdict("fcntl", 5, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK) == refusal(errno.EPERM)
    assert verdict("fcntl", 5, fcntl.F_SETFL, os.O_NONBLOCK) == verdict("fcntl", 5, fcntl.F_DUPFD) == ALLOW
    assert verdict("ioctl", 1, termios.TIOCGWINSZ) == verdict("ioctl", 1, termios.FIONREAD) == ALLOW
    for request in (termios.FIOASYNC, 0x8901, 0x8902, termios.TIOCSTI, 0x40086602, 0x401C5820, 0x40806685):
        assert verdict("ioctl", 1, request) == refusal(errno.ENOTTY)
    assert verdict("prctl", 1, 0) == refusal(errno.EPERM)
    assert verdict("prctl", 15) == ALLOW
    for call, own, other in (("setpriority", 0, 1), ("ioprio_set", 1, 2)):
        assert verdict(call, own, 0) == ALLOW
        assert verdict(call, own, 4242) == verdict(call, other, 0) == refusal(errno.EPERM)
    assert verdict("sched_setaffinity", 0) == verdict("sched_setaffinity", 4242) == ALLOW
    assert verdict("sched_setaffinity", 1) == refusal(errno.EPERM)
    stream, datagram, sequence, close_on_exec = 1, 2, 5, 0o2000000
    assert verdict("socketpair", 1, stream | close_on_exec) == ALLOW
    assert verdict("socketpair", 1, datagram) == refusal(errno.EPERM)
    assert verdict("socketpair", 1, sequence) == refusal(errno.EPERM)
    assert verdict("socketpair", 2, stream) == refusal(errno.EPERM)
    assert verdict("clone", 0x01200011) == ALLOW
    assert verdict("clone", 0x3D0F00) == ALLOW
    for namespace in (0x10000000, 0x20000000, 0x40000000, 0x20000, 0x02000000, 0x04000000, 0x08000000):
        assert verdict("clone", namespace | 17) == refusal(errno.EPERM)
    assert verdict("prlimit64", 0) == verdict("prlimit64", 4242) == ALLOW
    assert verdict("prlimit64", 4243) == refusal(errno.EPERM)
    foreign = ALLOW if scoped else refusal(errno.EPERM)
    for call in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        assert verdict(call, 4242) == ALLOW
        assert verdict(call, 1) == verdict(call, 0xFFFFFFFF) == foreign
    assert verdict("tkill", 4242) == foreign
    known = set(calls.values())
    assert {run_filter(program, machine.audit, number) for number in range(470) if number not in known} == {ALLOW}
    assert run_filter(program, machine.audit, 470) == refusal(errno.ENOSYS)


@pytest.mark.parametrize(("name", "machine"), MACHINES, ids=[name for name, _ in MACHINES])
def test_requests_to_a_gpu_pass_only_where_it_may_be_used(name: str, machine: seccomp.Machine) -> None:
    programs = [compile_filter(machine, pid=1, signals_scoped=True, gpu=gpu) for gpu in (False, True)]

    def verdicts(request: int) -> list[int]:
        return [run_filter(program, machine.audit, machine.calls["ioctl"], 1, request) for program in programs]

    refused = refusal(errno.ENOTTY)
    # NV_ESC_CARD_INFO, NV_ESC_RM_ALLOC, UVM_INITIALIZE, UVM_DEINITIALIZE, UVM_REGISTER_GPU.
    for request in (0xC90046C8, 0xC030462B, 0x30000001, 0x30000002, 37):
        assert verdicts(request) == [refused, ALLOW]
    for request in (termios.TIOCSTI, 0x8901, 0x40086602, 0x401C5820, 0x30000003):
        assert verdicts(request) == [refused, refused]
    assert verdicts(termios.TIOCGWINSZ) == [ALLOW, ALLOW]


@pytest.mark.parametrize(("name", "machine"), MACHINES, ids=[name for name, _ in MACHINES])
def test_calls_of_another_architecture_end_the_process(name: str, machine: seccomp.Machine) -> None:
    program = compile_filter(machine, pid=1, signals_scoped=True)

    assert run_filter(program, 0x40000003, 4) == KILL
    assert run_filter(program, machine.audit, 0x40000000 + 1) == KILL


def test_the_architectures_name_the_same_calls() -> None:
    x86_64, aarch64 = seccomp._MACHINES["x86_64"].calls, seccomp._MACHINES["aarch64"].calls

    assert x86_64.keys() - aarch64.keys() == {
        *("chmod", "chown", "lchown", "ioperm", "iopl", "open", "utime", "utimes", "futimesat", "inotify_init")
    }
    assert aarch64.keys() <= x86_64.keys()


@pytest.mark.parametrize(
    ("header", "machine", "pattern"),
    [
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "x86_64", r"#define __NR_(\w+) (\d+)"),
        ("/usr/include/asm-generic/unistd.h", "aarch64", r"#define __NR(?:3264)?_(\w+) (\d+)"),
    ],
)
def test_the_numbers_are_those_of_the_kernels_headers(header: str, machine: str, pattern: str) -> None:
    path = Path(header)
    if not path.exists():
        pytest.skip(f"{header} is not installed")
    known = {name: int(number) for name, number in re.findall(pattern, path.read_text())}
    ours = seccomp._MACHINES[machine].calls

    assert {name: number for name, number in ours.items() if known.get(name, number) != number} == {}
    assert len(ours.keys() & known.keys()) > 80


def start_guarded(orphan: str) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """An agent with a guarded training process that has started another, and all of their processes."""
    training = (
        "import os, sys, time; from blockfl.institution.guard import stand_guard\n"
        "stand_guard(int(sys.argv[1]))\n"
        f"started = os.fork()\nif started == 0:\n    {orphan}\n    time.sleep(600)\n"
        "print(os.getppid(), os.getpid(), started, flush=True); time.sleep(600)"
    )
    agent = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {training!r}, str(os.getpid())], stdout=subprocess.PIPE,"
        " start_new_session=True)\n"
        "print(child.stdout.readline().decode(), flush=True); child.wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", agent], stdout=subprocess.PIPE)
    assert process.stdout is not None
    family = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    assert len(family) == 3
    return process, family


@pytest.mark.parametrize(
    "orphan", ["pass", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["plain", "deaf"]
)
def test_all_that_training_started_dies_with_an_agent_that_is_killed(orphan: str) -> None:
    """``kill -9`` of the agent leaves no training behind, nor what the user's code has forked."""
    process, family = start_guarded(orphan)
    with process:
        process.kill()
        assert psutil.wait_procs(family, timeout=30)[1] == []


def test_the_guard_ends_as_training_did() -> None:
    process, (guard, training, started) = start_guarded("pass")
    with process:
        training.kill()
        assert psutil.wait_procs([guard], timeout=30)[1] == []
        # The agent, which is alive, ends the rest.
        os.killpg(os.getpgid(started.pid), signal.SIGKILL)
        assert psutil.wait_procs([started], timeout=30)[1] == []
        process.kill()


def test_a_process_whose_agent_died_before_it_looked_ends_itself() -> None:
    script = "from blockfl.institution.guard import die_with_parent; die_with_parent(1 << 22); print('alive')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (1, b"")


def test_the_agents_memory_is_hidden_from_its_own_user() -> None:
    """Checked as another user than root, from whom nothing is hidden; and processes can still be started."""
    script = (
        "import ctypes, os, subprocess; from blockfl.fabric.identity.process_memory import hide_memory\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"
        "print(os.stat('/proc/self/mem').st_uid == os.getuid())\n"
        "hide_memory()\n"
        "print(os.stat('/proc/self/mem').st_uid, subprocess.run(['true'], start_new_session=True).returncode)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)

    assert done.stdout.split() == [b"True", b"0", b"0"], done.stderr
