"""Ordering that comes back by itself: an ordering node that has work and makes no progress begins anew.

BFT ordering nodes on a busy machine can end in different views, where none of them orders anything and each one
answers; a node that was cut off can stay behind for good. Both begin to work again when the nodes begin anew. What a
node says of itself stands in its own metrics, on its operations address (Hyperledger Fabric, "The Operations
Service"; names in its metrics reference).
"""

import http.client
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from blockfl.network.port import parse_address

STALLED_S = 120.0
"""How long an ordering node may make no progress; BFT nodes took 68 s to leave a leader over lines of 40 ms."""
FAR_BEHIND = 20
"""Blocks that a node may lack while it catches up."""
BEHIND_S = 60.0
"""How long a node that lacks more of them may fetch none."""
NOTED_S = 30.0
"""After how long without progress `blockfl network status` says so."""
TOGETHER_S = 180.0
"""At multiples of this, in seconds since 1970, all nodes begin anew that make no progress."""
_ASKED_S = 2.0
_METRICS_BYTES = 4 << 20
_HEIGHTS = ("consensus_BFT_committed_block_number", "consensus_etcdraft_committed_block_number")
_WAITING = "consensus_smartbft_pool_count_of_elements"
_VIEW = "consensus_smartbft_view_number"
_PEER_HEIGHT = "ledger_blockchain_height"
_READ = (*_HEIGHTS, _WAITING, _VIEW, _PEER_HEIGHT)
CONTAINER_CHECK = f"""
ask() {{
  exec 3<>"/dev/tcp/${{ORDERER_OPERATIONS_LISTENADDRESS/://}}"
  printf 'GET %s HTTP/1.0\\r\\n\\r\\n' "$1" >&3
  cat <&3
}}
ask /healthz | grep -q '"OK"' || exit 1
said=$(ask /metrics)
newest=$(grep -E '^({"|".join((*_HEIGHTS, _VIEW))})[{{]' <<< "$said")
newest=${{newest//$'\\n'/ }}
waiting=$(grep -E '^{_WAITING}[{{]' <<< "$said")
printf -v now '%(%s)T'
file=${{STALL_FILE:-/tmp/stall}}
{{ read -r since && read -r looked && read -r before; }} 2> /dev/null < "$file"
if [[ -z $waiting || $waiting == *' 0' || $newest != "${{before:-}}" ]]; then since=$now; fi
printf '%s\\n%s\\n%s\\n' "$since" "$now" "$newest" > "$file"
if (( now - since > {STALLED_S:.0f} && now / {TOGETHER_S:.0f} != looked / {TOGETHER_S:.0f} )); then
  rm -f "$file"
  echo "requests wait, and no block has come since $since: it begins anew" >&2
  kill -TERM 1
fi
""".strip()
"""For a container, as its health check in bash: all at once; a container ends, and its engine starts it again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OrderingState:
    """What an ordering node and its organisation's peer say.

    Attributes:
        newest: Number of the node's newest block.
        waiting: Requests that the node has and that are in no block yet; raft nodes do not tell, and have 0.
        known: Number of the newest block that the peer has; 0 without a peer.
        view: Number of the BFT view that the node is in; raft nodes have none, and 0.
    """

    newest: int
    waiting: int
    known: int
    view: int = 0

    @property
    def has_work(self) -> bool:
        """Whether a node that works would make or fetch a block now."""
        return self.waiting > 0 or self.is_far_behind

    @property
    def is_far_behind(self) -> bool:
        """Whether others have made blocks that the node does not fetch."""
        return self.known - self.newest > FAR_BEHIND

    def describe(self) -> str:
        """Say what there is to do."""
        if self.waiting:
            return f"{self.waiting} requests wait, and no block has come since {self.newest}"
        return f"it has block {self.newest} of {self.known}"


class StallWatch:
    """Decides when one ordering node begins anew.

    BFT nodes that leave a leader agree on a new view by themselves, and one that begins anew meanwhile may forget the
    view that it had agreed to: then it stays in another one than the rest. So a new view is progress, and where no view
    brings a block, all nodes begin anew at once, at a time that all clocks know. A node that only lacks blocks which
    the others have begins anew alone.
    """

    def __init__(self) -> None:
        self._newest = self._view = -1
        self._since: float | None = None
        self._clock_s = 0.0
        self.stalled_s = 0.0
        """For how long the node has had work and made no progress, when it was last looked at."""

    def look(self, now: float, clock_s: float, state: OrderingState | None) -> float | None:
        """Take note of a node's state; return for how long it has made no progress if it has to begin anew.

        Args:
            now: Seconds on any clock that only goes forward.
            clock_s: Seconds since 1970, as the others' machines have them, too.
            state: None where the node does not tell.
        """
        is_common = int(clock_s / TOGETHER_S) != int(self._clock_s / TOGETHER_S)
        self._clock_s = clock_s
        if state is None:
            return None
        if self._since is None or state.newest != self._newest or state.view > self._view or not state.has_work:
            self._newest, self._view, self._since = state.newest, max(self._view, state.view), now
        self.stalled_s = now - self._since
        is_lost = state.is_far_behind and self.stalled_s >= BEHIND_S
        if not is_lost and not (is_common and state.has_work and self.stalled_s >= STALLED_S):
            return None
        self._newest = self._view = -1
        return self.stalled_s


def read_ordering_state(orderer: str, peer: str | None) -> OrderingState | None:
    """Read what nodes say of themselves.

    Args:
        orderer: Operations address of the ordering node, ``host:port``.
        peer: Operations address of its organisation's peer, if it has one.

    Returns:
        None if the ordering node does not answer, or serves no channel yet.
    """
    said = dict(_read_metrics(orderer))
    newest = next((said[name] for name in _HEIGHTS if name in said), None)
    if newest is None:
        return None
    height = dict(_read_metrics(peer)).get(_PEER_HEIGHT, 0) if peer is not None else 0
    return OrderingState(
        newest=newest, waiting=said.get(_WAITING, 0), known=max(0, height - 1), view=said.get(_VIEW, 0)
    )


def _read_metrics(address: str) -> Iterator[tuple[str, int]]:
    """Yield the metrics that count here; none if nobody answers."""
    # Never through a proxy of the user's environment: the node is on this machine.
    connection = http.client.HTTPConnection(*parse_address(address), timeout=_ASKED_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read(_METRICS_BYTES).decode()
        # A node tells thousands of lines, and parsing them all took a twentieth of a processor.
        told = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(_READ))
        for family in text_string_to_metric_families(told):
            for sample in family.samples:
                if sample.name in _READ:
                    yield sample.name, int(sample.value)
    except (http.client.HTTPException, OSError, ValueError) as error:
        _log.debug("%s does not tell its metrics: %s", address, error)
    finally:
        connection.close()
