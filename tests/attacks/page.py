"""The catalogue as a page of the documentation: ``make docs`` writes it anew.

PYTHONPATH=tests python -m attacks.page
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from attacks.catalogue import AREAS, MEANINGS, Attack, Outcome, list_attacks

PAGE: Final = Path(__file__).parents[2] / "docs" / "attacks.md"
BEGIN: Final = "<!-- attacks: written by `make docs` -->"
END: Final = "<!-- end of attacks -->"


def render_attacks(attacks: tuple[Attack, ...]) -> str:
    """Return one table for each area."""
    parts = [f"{len(attacks)} attacks."]
    for area, heading in AREAS.items():
        rows = [_render_row(one) for one in attacks if one.area == area]
        if rows:
            parts.append(
                "\n".join(
                    [f"## {heading}\n", "| attack | by | what it does | what comes of it |", "|---|---|---|---|", *rows]
                )
            )
    return "\n\n".join(parts)


def render_meanings(attacks: tuple[Attack, ...]) -> str:
    """Return what the words in the last column mean, those that are used."""
    used = {outcome.how for one in attacks for outcome in one.expect}
    return "\n".join(f"- *{how}*: {meaning}" for how, meaning in MEANINGS.items() if how in used)


def with_attacks(text: str) -> str:
    """Return the page with the catalogue between its markers.

    Raises:
        ValueError: The markers are not there, once each.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"expected the lines {BEGIN} and {END}, once each")
    before, _, rest = text.partition(BEGIN)
    attacks = list_attacks()
    content = f"{render_meanings(attacks)}\n\n{render_attacks(attacks)}"
    return f"{before}{BEGIN}\n{content}\n{END}{rest.partition(END)[2]}"


def _render_row(attack: Attack) -> str:
    outcomes = _render_outcomes(attack.expect)
    if attack.on_fabric != attack.expect:
        outcomes += f" (on real Fabric {_render_outcomes(attack.on_fabric)})"
    return f"| {attack.name} | {attack.by} | {attack.does} | {outcomes} |"


def _render_outcomes(outcomes: tuple[Outcome, ...]) -> str:
    return "; ".join(f"{one.how}: `{one.code}`" if _is_code(one.code) else str(one) for one in outcomes)


def _is_code(code: str) -> bool:
    return code.startswith("BFL") or code.isupper()


def main() -> None:
    """Write the catalogue into the page."""
    PAGE.write_text(with_attacks(PAGE.read_text()))


if __name__ == "__main__":
    main()
