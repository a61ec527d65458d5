"""The pictures of the auditor's page in the documentation, taken of a demo's evidence: `make demo pictures`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image

from support.browser import Browser
from support.page_visit import visit_page

ROOT: Final = Path(__file__).parents[2]
WIDTH_PX, HEIGHT_PX = 1080, 720
_COLOURS: Final = 96
PICTURES: Final = {
    "page-lineage": ("light", "tasks/heart#lineage-title"),
    "page-round": ("dark", "tasks/heart/rounds/5"),
    "page-blocks": ("light", "blocks?before=150"),
}
"""By file: how it is drawn, and which view."""


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=ROOT / "build" / "demo", help="directory of a demo's result")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="directory of the pictures")
    arguments = parser.parse_args()
    genesis_hash = json.loads((arguments.demo / "summary.json").read_bytes())["audit"]["genesis_hash"]
    with tempfile.TemporaryDirectory() as profile, Browser.start(Path(profile)) as browser:
        browser.resize(WIDTH_PX, HEIGHT_PX)
        with visit_page(browser, arguments.demo / "evidence.bundle", genesis_hash) as page:
            for name, (scheme, path) in PICTURES.items():
                browser.emulate(scheme)
                page.open(path)
                path_of_picture = arguments.output / f"{name}.png"
                browser.take_picture(path_of_picture)
                _shrink(path_of_picture)
                print(path_of_picture)


def _shrink(path: Path) -> None:
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(_COLOURS)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
