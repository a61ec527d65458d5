"""What a contract service tells Prometheus: transactions, its peers, its certificate.

The contract itself knows nothing of it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from blockfl.fabric.operations import certificate_family
from blockfl.fabric.shim import Context
from blockfl.fabric.shim import Contract as ShimContract


class CountedContract:
    """A contract whose calls are counted by whether they were refused."""

    def __init__(self, contract: ShimContract, registry: CollectorRegistry) -> None:
        self._contract = contract
        self._calls = Counter(
            "blockfl_contract_calls", "Transactions and reads that were run.", ["outcome"], registry=registry
        )

    async def __call__(self, context: Context) -> bytes:
        """Run a transaction, and count it."""
        outcome = "refused"
        try:
            answer = await self._contract(context)
            outcome = "answered"
            return answer
        finally:
            self._calls.labels(outcome).inc()


class ServiceMetrics(Collector):
    """Looks when it is asked."""

    def __init__(
        self, organisation: str, certificate: bytes, count_peers: Callable[[], int], watched: Path | None = None
    ) -> None:
        self._organisation = organisation
        self._certificate = certificate
        self._count_peers = count_peers
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        peers = GaugeMetricFamily("blockfl_contract_peers", "Peers that hold a stream.", labels=["organisation"])
        peers.add_metric([self._organisation], self._count_peers())
        yield peers
        own = (self._organisation, "contract TLS", self._certificate)
        yield certificate_family([own, *self._read_watched()])

    def _read_watched(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield the other certificates, as they are now: they may have been renewed."""
        for path in sorted(self._watched.glob("*.pem")) if self._watched else ():
            yield self._organisation, path.stem, path.read_bytes()


def make_registry() -> CollectorRegistry:
    """Return a registry with the figures of this process: memory, processor time, open files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry
