"""When a round may close, sentence by sentence."""

from collections.abc import Collection, Mapping


def may_close(
    participants: Collection[str],
    states: Mapping[str, str],
    equivocators: Collection[str],
    now_ms: int,
    submit_deadline_ms: int,
    judge_deadline_ms: int,
) -> bool:
    """Return whether a round may close; ``states`` holds those who submitted."""

    def decided(name: str) -> bool:
        return name in equivocators or states.get(name) in ("accepted", "rejected")

    if all(decided(name) for name in participants):
        return True
    if now_ms >= submit_deadline_ms and all(decided(name) for name in participants if name in states):
        return True
    return now_ms >= judge_deadline_ms
