"""The variables of a chat template that a row is asked with, as the row keeps them."""

import json
from collections.abc import Mapping
from typing import Any

NO_OPTIONS: Mapping[str, Any] = {}


def options_text(options: Mapping[str, Any]) -> str:
    """Variables of a chat template as a row keeps them: a JSON object, or empty where there are none."""
    return json.dumps(options, sort_keys=True) if options else ""


def read_options(text: str) -> Mapping[str, Any]:
    """The inverse of `options_text`."""
    return dict(json.loads(text)) if text else NO_OPTIONS
