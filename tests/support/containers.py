"""The services of a ``docker-compose.yaml`` without an engine: each in a mount namespace and a root of its own.

A service sees what the file mounts for it and nothing else of the machine but programs. It runs as the file's user,
with the file's command, environment and read-only root. Networks are one: all names lead to loopback.
What an image would hold (Fabric's programs, our package, Python) is mounted from this machine. It needs root.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from blockfl.network.binaries import find_binaries
from blockfl.network.local import write_builder

ROOT = Path(__file__).parents[2]
_POLL_S = 0.2
_ENDS_S = 20.0
_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::-((?:[^{}]|\{[^{}]*\})*))?\}")
_LAUNCH = """
set -eu
root=$1; shift
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir -p "$root/etc" "$root/proc" "$root/dev" "$root/tmp"
for name in usr bin sbin lib lib64; do
  if [ -L "/$name" ]; then cp -P "/$name" "$root/$name"; elif [ -d "/$name" ]; then
    mkdir "$root/$name"; mount --rbind "/$name" "$root/$name"; fi
done
for name in passwd group nsswitch.conf ld.so.cache ssl alternatives; do
  if [ -e "/etc/$name" ]; then cp -a "/etc/$name" "$root/etc/$name"; fi
done
cp "$HOSTS" "$root/etc/hosts"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$1" != -- ]; do
  source=$1; target=$root$2; mode=$3; shift 3
  if [ -d "$source" ]; then mkdir -p "$target"; else mkdir -p "$(dirname "$target")"; : > "$target"; fi
  mount --bind "$source" "$target"
  if [ "$mode" = ro ]; then mount -o remount,bind,ro "$target"; fi
done
shift
if [ "$READ_ONLY" = 1 ]; then mount -o remount,ro "$root"; fi
exec chroot $OWNER "$root" "$@"
"""


class Service:
    """One service as the file describes it.

    Args:
        name: The service's name.
        content: What the file says of it, variables filled in.
        directory: Where logs and roots are kept.
        hosts: The ``/etc/hosts`` of all containers.
    """

    def __init__(self, name: str, content: Mapping[str, Any], directory: Path, hosts: Path) -> None:
        self.name = name
        self._content = content
        self._root = directory / f"{name}.root"
        self._hosts = hosts
        self.log = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start its command."""
        self.process = self._open(self._command())

    def run(self, timeout_s: float, command: list[str] | None = None) -> str:
        """Run its command, or another in its place, to the end; return the log of it.

        Raises:
            AssertionError: It fails.
        """
        before = self.log.stat().st_size if self.log.exists() else 0
        code = self._open(command or self._command()).wait(timeout_s)
        said = self.log.read_bytes()[before:].decode()
        assert code == 0, f"{self.name} ended with {code}: {said}"
        return said

    def is_healthy(self) -> bool:
        """Run its health check beside it."""
        kind, *test = self._content["healthcheck"]["test"]
        command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} has ended: {self.log.read_text()[-3000:]}"
        enter = ["nsenter", "-t", str(self.process.pid), "--mount", "--root", "--wd=/"]
        owner = self._content["user"].split(":")
        beside = [*enter, "setpriv", f"--reuid={owner[0]}", f"--regid={owner[1]}", "--clear-groups", *command]
        return subprocess.run(beside, env=self._environment(), capture_output=True, check=False).returncode == 0

    def stop(self) -> None:
        """End it as an engine does: asked first, then at once."""
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(_ENDS_S)

    def _open(self, command: list[str]) -> subprocess.Popen[bytes]:
        self._root.mkdir(exist_ok=True)
        namespaces = ["--net"] if self._content.get("network_mode") == "none" else []
        owner = self._content["user"]
        environment = {
            **self._environment(),
            "HOSTS": str(self._hosts),
            "READ_ONLY": str(int(self._content["read_only"])),
            "OWNER": "" if owner == "0:0" else f"--userspec={owner}",
        }
        mounts = [part for mount in self._mounts() for part in mount]
        launch = ["unshare", "--mount", "--propagation", "private", *namespaces, "sh", "-c", _LAUNCH, "sh"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*launch, str(self._root), *mounts, "--", *command],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _command(self) -> list[str]:
        # The image of ordering nodes has a command of its own.
        said = self._content.get("command", ["orderer"])
        command = shlex.split(said) if isinstance(said, str) else list(said)
        return [*self._content.get("entrypoint", []), *command]

    def _environment(self) -> dict[str, str]:
        programs = f"{sys.prefix}/bin:{find_binaries().peer.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        # Our package as this process has it.
        path = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        told = {name: str(value) for name, value in self._content.get("environment", {}).items()}
        return {"PATH": programs, "HOME": "/tmp", "BLOCKFL_HEARTBEAT": "/tmp/alive", **path, **told}

    def _mounts(self) -> Iterator[tuple[str, str, str]]:
        binaries = find_binaries()
        for place in {sys.prefix, sys.base_prefix, str(ROOT), str(binaries.peer.parent)}:
            yield place, place, "ro"
        yield str(self._hosts.parent / "builder"), "/opt/hyperledger/ccaas_builder", "ro"
        for mount in self._content["volumes"]:
            if isinstance(mount, dict):
                yield mount["source"], mount["target"], "ro"
                continue
            source, target, *mode = mount.split(":")
            if source.startswith("fabric-peer"):
                source = str(binaries.peer_configuration)
            elif source.startswith("fabric-orderer"):
                source = str(binaries.orderer_configuration)
            yield str(Path(source).resolve()), target, mode[0] if mode else "rw"


class Project:
    """A file's services.

    Args:
        file: The ``docker-compose.yaml``.
        variables: What Compose fills in.
        directory: Where logs and roots are kept.
        names: Names that lead to this machine: of containers, and of hosts.
    """

    def __init__(self, file: Path, variables: Mapping[str, str], directory: Path, names: list[str]) -> None:
        directory.mkdir(parents=True)
        hosts = directory / "hosts"
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ["localhost", *names]))
        write_builder(directory / "builder")
        for path in (directory / "builder").rglob("*"):
            path.chmod(0o755)
        content = json.loads(_fill(json.dumps(yaml.safe_load(file.read_text())), variables))
        self.services = {name: Service(name, told, directory, hosts) for name, told in content["services"].items()}
        self.waits = {name: dict(told.get("depends_on", {})) for name, told in content["services"].items()}

    @contextmanager
    def running(self, *names: str, timeout_s: float = 60) -> Iterator[None]:
        """Start services and wait until each is healthy; stop them in the end."""
        deadline = time.monotonic() + timeout_s
        services = [self.services[name] for name in names]
        try:
            for one in services:
                one.start()
            for one in services:
                while not one.is_healthy():
                    assert time.monotonic() < deadline, f"{one.name} is not healthy: {one.log.read_text()[-3000:]}"
                    time.sleep(_POLL_S)
            yield
        finally:
            for one in reversed(services):
                one.stop()


def why_not() -> str | None:
    """Return why services cannot be run like this here, None if they can."""
    if os.getuid() != 0:
        return "namespaces of its own need root"
    if missing := [name for name in ("unshare", "nsenter", "chroot", "setpriv") if shutil.which(name) is None]:
        return f"{', '.join(missing)} not there"
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "no mount namespaces here"


def _fill(text: str, variables: Mapping[str, str]) -> str:
    """Fill variables in as Compose does: ``${NAME:-default}``; ``$$`` is a dollar."""

    def replace(found: re.Match[str]) -> str:
        if found[1] is None:
            return "$"
        return json.dumps(variables.get(found[1]) or found[2] or "")[1:-1]

    return _VARIABLE.sub(replace, text)
