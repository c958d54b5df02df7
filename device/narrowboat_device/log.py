"""Log lines: one event a line, `key=value`, on standard error, as journald and container runtimes take them.

    level=info from=link text="the connection to broker.example ended: MQTT_ERR_CONN_LOST"

The text is quoted as JSON quotes it, so that nothing in it can begin another line or move a terminal's cursor. There
is no time in a line: whoever collects them stamps them.
"""

from __future__ import annotations

import json
import logging

LEVELS = ("debug", "info", "warning", "error")
_PACKAGE = __package__ or ""


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        part = record.name.removeprefix(f"{_PACKAGE}.")
        line = f"level={record.levelname.lower()} from={part} text={json.dumps(record.getMessage())}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


def log_to_stderr(level: str) -> None:
    """Send the log of this package, at `level` and above, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line())
    logger = logging.getLogger(_PACKAGE)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
