"""What a user can see of a directory: run as that user, ``python -m examples.hosts.look DIRECTORY``.

It prints a JSON object: the files whose content it can read, and the directories that it can list.
"""

import json
import os
import sys
from pathlib import Path


def look(directory: Path) -> dict[str, list[str]]:
    """Return what this process can read below a directory."""
    files, directories = [], []
    for above, _, names in os.walk(directory):
        directories.append(above)
        for name in names:
            path = Path(above) / name
            try:
                with path.open("rb") as file:
                    file.read(1)
            except OSError:
                continue
            files.append(str(path))
    return {"files": sorted(files), "directories": sorted(directories)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look(Path(sys.argv[1]))) + "\n")
