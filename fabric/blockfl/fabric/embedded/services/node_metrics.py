"""What the node tells Prometheus: height, failure, contract services, certificates, room, what it has done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from blockfl.fabric.counters import DESCRIPTIONS, Counters
from blockfl.fabric.embedded.settings import NodeSettings
from blockfl.fabric.operations import certificate_family
from blockfl.fabric.settings_file import read_bytes


class NodeMetrics(Collector):
    """Looks when it is asked.

    Args:
        settings: The node's.
        status: Tells how the node is.
        counters: What each endpoint has done, by MSP id; the ordering endpoint's is empty.
    """

    def __init__(
        self, settings: NodeSettings, status: Callable[[], Mapping[str, Any]], counters: Mapping[str, Counters]
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yields the families."""
        status, settings = self._status(), self._settings
        height = GaugeMetricFamily("blockfl_ledger_height", "Blocks of the ledger.", labels=["channel"])
        height.add_metric([status["channel"]], status["height"])
        failed = GaugeMetricFamily("blockfl_ledger_failed", "1 when the ledger accepts nothing any more.")
        failed.add_metric([], bool(status["error"]))
        services = GaugeMetricFamily(
            "blockfl_contract_connected", "1 while an organisation's contract service is.", labels=["organisation"]
        )
        for name, one in status["organisations"].items():
            services.add_metric([name], any(how == "ready" for how in one["contracts"].values()))
        room = GaugeMetricFamily("blockfl_disk_free_bytes", "Room on the disk of a directory.", labels=["directory"])
        room.add_metric([str(settings.directory)], shutil.disk_usage(settings.directory).free)
        endpoints = [("peer", one) for one in settings.organisations] + [("orderer", settings.orderer)]
        certificates = [
            (one.msp_id, f"{kind} {use}", read_bytes(path))
            for kind, one in endpoints
            for use, path in (("signing", one.certificate), ("TLS", one.tls_certificate))
        ]
        yield from (height, failed, services, room, certificate_family(certificates))
        transactions = CounterMetricFamily("blockfl_transactions", "Transactions committed.", labels=["code"])
        for code, count in status["codes"].items():
            transactions.add_metric([code], count)
        yield transactions
        yield CounterMetricFamily("blockfl_syncs", "How often the ledger waited for its disk.", status["syncs"])
        for what, description in DESCRIPTIONS.items():
            family = CounterMetricFamily(f"blockfl_{what}", description, labels=["organisation"])
            for name, counters in self._counters.items():
                family.add_metric([name], counters.read(what))
            yield family
