"""Training code that tries everything it should not be able to do, and tells what worked.

Run as a script it confines itself first, or not, to show that every attempt would work otherwise. Given to the agent as
``--code`` it tries from within ``load_data`` and then trains a real model. Self-contained: it may read nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Target = dict[str, Any]

X86_64 = platform.machine() == "x86_64"
PTRACE, PROCESS_VM_READV, KEYCTL, MQ_OPEN = (101, 310, 250, 240) if X86_64 else (117, 270, 219, 180)
SHMGET, SHMCTL, MQ_UNLINK, UNSHARE = (29, 31, 241, 272) if X86_64 else (194, 195, 181, 97)
IOPRIO_SET = 251 if X86_64 else 30
SET_PARENT_DEATH_SIGNAL, SET_DESCRIPTOR_OWNER, OPENAT2 = 1, 0x8901, 437
PIDFD_OPEN, PIDFD_GETFD, PIDFD_SEND_SIGNAL, IO_URING_SETUP = 434, 438, 424, 425
PTRACE_SEIZE, NEW_USER = 0x4206, 0x10000000


def call(number: int, *arguments: Any) -> int:
    """Make a system call."""
    library = ctypes.CDLL(None, use_errno=True)
    result = int(library.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def list_attempts(target: Target) -> dict[str, Callable[[], object]]:
    """Return every attempt by name; one that raises has failed."""
    return (
        list_attempts_at_files(target)
        | list_attempts_at_agent(target)
        | list_attempts_outside(target)
        | list_attempts_by_detours(target)
    )


def list_attempts_at_files(target: Target) -> dict[str, Callable[[], object]]:
    """Return the attempts to reach files: the agent's key, and those of others."""
    key, process, scratch = Path(target["key"]), Path(f"/proc/{target['pid']}"), Path(tempfile.gettempdir())
    return {
        "read the key": key.read_bytes,
        "list the key's directory": lambda: list(key.parent.iterdir()),
        "read the key through a symbolic link": lambda: read_through_link(key, scratch),
        "link the key into the scratch directory": lambda: os.link(key, scratch / "hard"),
        "read the key in a thread": lambda: in_thread(key.read_bytes),
        "read the key in a program": lambda: subprocess.run(["cat", key], check=True, capture_output=True),
        "read the key through /proc/self/root": lambda: Path(f"/proc/self/root{key}").read_bytes(),
        "read the key through the agent's root": lambda: Path(f"{process}/root{key}").read_bytes(),
        "read the key through the agent's files": lambda: (process / "fd" / str(target["fd"])).read_bytes(),
        "write the key": lambda: os.close(os.open(key, os.O_WRONLY)),
        "truncate the key": lambda: os.truncate(target["victim"], 0),
        "change the key's mode": lambda: Path(target["victim"]).chmod(0o666),
        "change the key's owner": lambda: os.chown(target["victim"], os.getuid(), os.getgid()),
        "move the key into the scratch directory": lambda: Path(target["victim"]).rename(scratch / "moved"),
        "write beside the key": lambda: (key.parent / "new").write_text("x"),
        "write to /tmp": lambda: Path(target["outside"]).write_text("x"),
        "write to /dev/shm": write_shared,
        "read another user's file": lambda: Path(target["other"]).read_bytes(),
    }


def list_attempts_at_agent(target: Target) -> dict[str, Callable[[], object]]:
    """Return the attempts to read, signal or limit the agent's process."""
    pid = int(target["pid"])
    process = Path(f"/proc/{pid}")
    return {
        "read the agent's environment": (process / "environ").read_bytes,
        "read the agent's memory map": (process / "maps").read_bytes,
        "open the agent's memory": lambda: os.close(os.open(process / "mem", os.O_RDONLY)),
        "copy the agent's memory": lambda: copy_memory(pid, int(target["address"])),
        "trace the agent": lambda: call(PTRACE, PTRACE_SEIZE, pid, 0, 0),
        "take a file of the agent": lambda: call(PIDFD_GETFD, call(PIDFD_OPEN, pid, 0), int(target["fd"]), 0),
        "signal the agent": lambda: os.kill(pid, signal.SIGCONT),
        "signal the agent's group": lambda: os.killpg(os.getpgid(pid), signal.SIGCONT),
        "signal the agent by descriptor": lambda: call(
            PIDFD_SEND_SIGNAL, call(PIDFD_OPEN, pid, 0), int(signal.SIGCONT), None, 0
        ),
        "limit the agent": lambda: limit(pid),
    }


def list_attempts_outside(target: Target) -> dict[str, Callable[[], object]]:
    """Return the attempts to reach a network, other processes and what the kernel shares."""
    return {
        "connect to the ledger": lambda: socket.create_connection(("127.0.0.1", target["tcp"]), 5).close(),
        "listen": lambda: socket.create_server(("127.0.0.1", 0)).close(),
        "send a datagram": lambda: send_datagram(target["udp"]),
        "connect to a unix socket": lambda: connect_unix(target["unix"]),
        "connect to an abstract socket": lambda: connect_unix("\0" + target["abstract"]),
        "send through a re-addressed pair": lambda: send_from_pair(target["unix_datagram"]),
        "open a raw netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
        "set up io_uring": lambda: os.close(call(IO_URING_SETUP, 1, ctypes.create_string_buffer(120))),
        "leave its session": lambda: in_child(os.setsid),
        "make a user namespace": lambda: in_child(lambda: call(UNSHARE, NEW_USER)),
        "share memory by key": lambda: call(SHMCTL, call(SHMGET, 0, 4096, 0o1600), 0, None),
        "open a message queue": open_queue,
        "read a kernel keyring": lambda: call(KEYCTL, 0, -3, 1),
    }


def list_attempts_by_detours(target: Target) -> dict[str, Callable[[], object]]:
    """Return the attempts to change rows, other files and the agent by calls that a filter may forget."""
    key, pid = Path(target["key"]), int(target["pid"])
    return {
        "empty the rows by reading them": lambda: os.close(os.open(target["rows"], os.O_RDONLY | os.O_TRUNC)),
        "empty the rows by neither reading nor writing": lambda: os.close(os.open(target["rows"], 3 | os.O_TRUNC)),
        "open by what no filter can read": lambda: os.close(
            call(OPENAT2, -100, target["rows"].encode(), (ctypes.c_uint64 * 3)(os.O_RDONLY, 0, 0), 24)
        ),
        "have a pipe signal the agent": lambda: own_descriptor(pid),
        "have a socket signal the agent": lambda: own_socket(pid),
        "have a pipe signal when it is ready": lambda: ask_for_signals(),
        "have a lease on the rows signal": lambda: lease(target["rows"]),
        "slow the agent": lambda: os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid)),
        "bind the agent to a processor": lambda: os.sched_setaffinity(pid, os.sched_getaffinity(pid)),
        "schedule the agent": lambda: os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0)),
        "slow the agent's disk": lambda: call(IOPRIO_SET, 1, pid, 4 | 2 << 13),
        "date another file": lambda: date(Path(target["other"])),
        "watch the key's directory": lambda: watch(key.parent),
        "outlive the agent": lambda: outlive(),
        "remove the key": key.unlink,
    }


def attempt_everything(target: Target) -> dict[str, str]:
    """Return for each attempt "worked", or why it failed."""
    results = {}
    for name, attempt in list_attempts(target).items():
        try:
            attempt()
            results[name] = "worked"
        except subprocess.CalledProcessError as error:
            results[name] = error.stderr.decode()
        except OSError as error:
            results[name] = f"{type(error).__name__} {error.errno}"
    return results


def do_everything_ordinary() -> list[str]:
    """Do what training code does; return what of it does not work."""
    problems = []
    ordinary: dict[str, Callable[[], object]] = {
        "random": read_random,
        "processors": lambda: Path("/proc/cpuinfo").read_text() and len(os.sched_getaffinity(0)),
        "memory": lambda: Path("/proc/meminfo").read_text() + Path("/proc/self/status").read_text(),
        "temporary files": write_temporary,
        "threads": lambda: in_thread(lambda: sum(range(1000))),
        "programs": lambda: subprocess.run([sys.executable, "-c", "import json"], check=True, capture_output=True),
        "pairs": use_pair,
        "null": lambda: Path("/dev/null").write_text("x"),
        "signal to itself": lambda: os.kill(os.getpid(), 0),
        "limits of its own": lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
        "priority of its own": lambda: os.nice(0),
        "processors of its own": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
        "files that replace others": replace_file,
        "copies that want to keep their time": copy_file,
        "descriptors that do not wait": lambda: in_pipe(lambda end: os.set_blocking(end, False)),
    }
    for name, work in ordinary.items():
        try:
            work()
        except Exception as error:
            problems.append(f"{name}: {error!r}")
    return problems


def read_through_link(key: Path, scratch: Path) -> bytes:
    link = scratch / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(key)
    return link.read_bytes()


def in_thread(work: Callable[[], object]) -> object:
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]


def in_child(work: Callable[[], object]) -> None:
    """Run in a forked process, whose exit status tells."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise OSError(status, os.strerror(status))


def read_random() -> bytes:
    with Path("/dev/urandom").open("rb") as file:
        return file.read(1) + os.urandom(16)


def write_shared() -> None:
    path = Path(f"/dev/shm/blockfl-{os.getpid()}")
    path.write_text("x")
    path.unlink()


def open_queue() -> None:
    name = f"blockfl-{os.getpid()}".encode()
    os.close(call(MQ_OPEN, name, os.O_RDWR | os.O_CREAT, 0o600, None))
    call(MQ_UNLINK, name)


def copy_memory(pid: int, address: int) -> None:
    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))

    buffer = ctypes.create_string_buffer(8)
    local, remote = Vector(ctypes.addressof(buffer), 8), Vector(address, 8)
    call(PROCESS_VM_READV, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)


def limit(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_CORE, resource.prlimit(pid, resource.RLIMIT_CORE))


def own_descriptor(pid: int) -> None:
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(reading, fcntl.F_SETOWN, pid)
    finally:
        os.close(reading)
        os.close(writing)


def own_socket(pid: int) -> None:
    left, right = socket.socketpair()
    with left, right:
        fcntl.ioctl(left, SET_DESCRIPTOR_OWNER, ctypes.c_int(pid))


def ask_for_signals() -> None:
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(reading, fcntl.F_SETFL, fcntl.fcntl(reading, fcntl.F_GETFL) | os.O_ASYNC)
    finally:
        os.close(reading)
        os.close(writing)


def lease(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    finally:
        os.close(descriptor)


def date(path: Path) -> None:
    os.utime(path, (1, 1))
    if path.stat().st_mtime != 1:
        raise PermissionError(1, "its time is as before")


def watch(directory: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(0)
    if descriptor < 0 or library.inotify_add_watch(descriptor, str(directory).encode(), 2) < 0:
        raise OSError(ctypes.get_errno(), "no watch")
    os.close(descriptor)


def outlive() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(SET_PARENT_DEATH_SIGNAL, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def send_datagram(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", port))


def connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def send_from_pair(path: str) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        left.sendto(b"x", path)


def use_pair() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"


def replace_file() -> None:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "file"
        path.write_text("long")
        path.write_text("x")
        assert path.read_text() == "x"


def copy_file() -> None:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "file"
        path.write_text("x")
        shutil.copyfile(path, path.with_name("copy"))
        os.utime(path.with_name("copy"), (1, 1))


def in_pipe(work: Callable[[int], object]) -> None:
    reading, writing = os.pipe()
    try:
        work(reading)
    finally:
        os.close(reading)
        os.close(writing)


def write_temporary() -> None:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "file"
        path.write_text("x")
        path.rename(path.with_name("other"))


# As training code of the agent


def build_model() -> Any:
    """Return a small compiled model."""
    import keras

    model = keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1, "sigmoid")]
    )
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    return model


def load_data(path: Path) -> Any:
    """Try everything, print what worked, and return samples."""
    import numpy as np

    target = json.loads(path.read_text())
    print(json.dumps({"attempts": attempt_everything(target), "problems": do_everything_ordinary()}), flush=True)
    print(json.dumps({"environment": dict(os.environ)}), flush=True)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    return {"train": (x[:40], y[:40]), "test": (x[40:], y[40:])}


def main() -> None:
    """``intruder.py TARGET.json SCRATCH LANDLOCK``: confine, with the rights of this version of it or less; 0: not."""
    target_path, scratch, version = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    target = json.loads(target_path.read_text())
    if version:
        from blockfl.institution import landlock
        from blockfl.institution.confinement import Reach, confine

        offered = min(version, landlock.read_version())
        landlock.read_version = lambda: offered
        readable = (target_path, Path(target["rows"]))
        confine(Reach(readable=readable, scratch=scratch, private=(Path(target["key"]),)))
    tempfile.tempdir = str(scratch)
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"attempts": attempt_everything(target), "problems": do_everything_ordinary()}))


if __name__ == "__main__":
    main()
