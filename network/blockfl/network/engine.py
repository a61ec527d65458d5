"""Docker's engine through its own interface: a project's containers, how they are, what they say.

Example:
    with Engine() as engine:
        for container in engine.containers("blockfl-heart"):
            print(container.service, container.state)
"""

import os
import socket
from types import TracebackType
from typing import Any, Self

from blockfl.network.errors import NetworkError
from blockfl.network.process import State

_PROJECT, _SERVICE, _ONE_OFF = (f"com.docker.compose.{name}" for name in ("project", "service", "oneoff"))
_TIMEOUT_S = 20
_USUAL = "unix:///var/run/docker.sock"
_ENDED_ON_REQUEST = (0, 143)
"""Exit codes of a process that was asked to end (SIGTERM), or had done its work."""


class Container:
    """One container as it was when it was asked for."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._state: dict[str, Any] = container.attrs["State"]
        self._health: dict[str, Any] = self._state.get("Health") or {}
        self.service: str = container.labels.get(_SERVICE, container.name)

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return bool(self._state["Running"]) and not self._state["Restarting"]

    @property
    def pid(self) -> int | None:
        """Its first process, as this machine knows it."""
        return int(self._state["Pid"]) or None

    @property
    def state(self) -> State:
        """Whether it runs, ended as it should, or did not."""
        if self.is_running:
            return "running"
        if self._state["Status"] == "created" or (
            self._state["Status"] == "exited" and self._state["ExitCode"] in _ENDED_ON_REQUEST
        ):
            return "stopped"
        return "crashed"

    @property
    def complaint(self) -> str:
        """What is wrong with it, in a line; empty when nothing is."""
        if self.state == "crashed":
            said = self._state.get("Error") or self.tail(1)
            return f"ended with {self._state['ExitCode']}: {said}".rstrip(": ")
        if self.is_running and self._health.get("Status") == "unhealthy":
            log = self._health.get("Log") or [{}]
            said = str(log[-1].get("Output", "")).strip().splitlines()
            return f"unhealthy: {said[-1] if said else 'its health check fails'}"
        return ""

    def tail(self, lines: int) -> str:
        """Return the last lines of its log."""
        return str(self._container.logs(tail=lines).decode(errors="replace")).rstrip("\n")

    def read_memory_mb(self) -> float | None:
        """Return the memory that it uses without the files that the kernel caches for it, in MiB."""
        said = self._container.client.api.stats(self._container.id, stream=False, one_shot=True)
        memory = said.get("memory_stats") or {}
        if "usage" not in memory:
            return None
        details = memory.get("stats") or {}
        cached = details.get("total_inactive_file", details.get("inactive_file", 0))
        return round(float(memory["usage"] - cached) / 2**20, 1)


class Engine:
    """The engine that ``DOCKER_HOST`` names, or this machine's own."""

    def __init__(self) -> None:
        try:
            import docker
            from docker.errors import DockerException
        except ImportError as error:
            raise NetworkError("the compose ledger needs the package docker: pip install 'blockfl[compose]'") from error
        try:
            _require_socket(os.environ.get("DOCKER_HOST") or _USUAL)
            self._client = docker.from_env(timeout=_TIMEOUT_S)
        except (DockerException, OSError) as error:
            raise NetworkError(
                f"no Docker engine answers ({error}); start it, see that this user may use it, and that DOCKER_HOST "
                "names it if it is not this machine's usual one"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def containers(self, project: str) -> list[Container]:
        """Return a Compose project's containers, without those of `docker compose run`."""
        found = self._client.containers.list(all=True, filters={"label": f"{_PROJECT}={project}"}, ignore_removed=True)
        return [Container(one) for one in found if one.labels.get(_ONE_OFF) != "True"]

    def require_image(self, name: str, remedy: str) -> None:
        """Check that an image is there.

        Args:
            name: The image.
            remedy: What to do if it is not.

        Raises:
            NetworkError: It is not.
        """
        from docker.errors import ImageNotFound

        try:
            self._client.images.get(name)
        except ImageNotFound as error:
            raise NetworkError(f"the image {name} is not there; {remedy}") from error


def _require_socket(host: str) -> None:
    """Check that somebody listens at a local engine's address; its own client would leave the socket open.

    Raises:
        OSError: Nobody does.
    """
    scheme, _, path = host.partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_TIMEOUT_S)
            probe.connect(path)
