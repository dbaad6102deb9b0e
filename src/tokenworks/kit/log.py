"""Logging of our processes: one line per event on stderr, which the supervisor writes to the process's log file."""

import logging
import sys


def set_up_logging(level: str) -> None:
    """Send everything from `level` on to stderr."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
