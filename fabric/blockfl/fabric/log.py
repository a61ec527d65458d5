"""How processes log: to standard error, each line with its time, for people or as JSON for machines.

configure_log(None)   # as BLOCKFL_LOG_FORMAT says, else text
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Final, Literal

LogFormat = Literal["text", "json"]
LOG_FORMAT_VARIABLE: Final = "BLOCKFL_LOG_FORMAT"
_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_log(wanted: str | None, *, level: int = logging.INFO) -> None:
    """Have this process log to standard error.

    Args:
        wanted: "text" or "json"; None: as the environment says. Anything else is text.
        level: From which on.
    """
    chosen = wanted or os.environ.get(LOG_FORMAT_VARIABLE)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if chosen == "json" else _TextFormatter(_TEXT))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def make_printable(text: str) -> str:
    """Return text with everything escaped that would steer a terminal or cannot be encoded; line ends stay."""
    return "".join(one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in text)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return make_printable(super().format(record))


class _JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, and the error where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said)
