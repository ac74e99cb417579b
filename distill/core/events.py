"""Structured log: the events of a run as JSON lines with time, event, run, stage, and the ids that the event concerns.

The driver's events go to `logs/events.jsonl` of the run. Those of engines and trainers go to the standard error of
their process, which Ray stores per worker and shows in its dashboard, with Ray's ids of the job, node and actor.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger("distill.core.events")


class JsonLines(logging.Formatter):
    """One JSON object per event."""

    def format(self, record: logging.LogRecord) -> str:
        """A line: `at` (UTC), `event`, then the fields of the event."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = vars(record).get("about", {})
        line = {"at": f"{at}.{int(record.msecs):03d}Z", "event": record.getMessage(), **fields, **_ray_ids()}
        return json.dumps(line, default=str)


def log_event(event: str, *, run: str, stage: str, **about: Any) -> None:
    """Log an event.

    Args:
        event: what happened.
        run: URI of the run directory.
        stage: name of the stage.
        about: ids and counts.
    """
    _logger().info("%s", event, extra={"about": {"run": run, "stage": stage, **about}})


@contextmanager
def events_in(path: Path) -> Iterator[None]:
    """Append this process's events to a file while the block runs."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(JsonLines())
    handlers = _logger().handlers
    LOGGER.handlers = [handler]
    try:
        yield
    finally:
        LOGGER.handlers = handlers
        handler.close()


@cache
def _logger() -> logging.Logger:
    """The logger, set up once per process; it does not propagate, so no other logger prints its lines again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    LOGGER.handlers, LOGGER.propagate = [handler], False
    LOGGER.setLevel(logging.INFO)
    return LOGGER


def _ray_ids() -> dict[str, str]:
    """Ray's ids of this process, if Ray runs it or it is connected to Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return {}
    context = ray.get_runtime_context()
    ids = {"job_id": context.get_job_id(), "node_id": context.get_node_id(), "actor_id": context.get_actor_id()}
    return {name: value for name, value in ids.items() if value}
