"""What a guard tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from blockfl.fabric.operations import certificate_family


class GuardMetrics:
    """Counts envelopes by what became of them, and streams that are open.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.envelopes = Counter(
            "blockfl_guard_envelopes", "Envelopes by what became of them.", ["outcome"], registry=registry
        )
        self.streams = Gauge("blockfl_guard_streams", "Open streams.", ["method"], registry=registry)
        for outcome in ("taken", "not taken by the ordering node", "refused"):
            self.envelopes.labels(outcome)


class CertificateEnds(Collector):
    """When the guard's certificates end.

    Args:
        organisation: Whose they are.
        certificates: Use and PEM of each.
    """

    def __init__(self, organisation: str, certificates: dict[str, bytes]) -> None:
        self._rows = [(organisation, use, pem) for use, pem in certificates.items()]

    def collect(self) -> Iterator[Metric]:
        """Yields the family."""
        yield certificate_family(self._rows)
