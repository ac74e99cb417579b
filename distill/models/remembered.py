"""Facts of a model that take seconds to compute and follow from content alone, kept in this machine's cache.

Computing them imports torch and transformers; a second `distill plan` needs neither.
"""

import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cluster.storage import cache_dir
from distill.core.schema import content_hash
from distill.core.versions import package_versions, source_digest

LIBRARIES = ("torch", "transformers", "tokenizers", "jinja2")


def remembered(kind: str, inputs: Any, compute: Callable[[], Any]) -> Any:
    """What `compute` returns, from the cache where the same was computed before: by this code and these libraries.

    Args:
        kind: of fact; part of the key.
        inputs: everything that decides the result, as JSON has it.
        compute: returns what JSON can hold. What it raises is raised again the next time.
    """
    path = cache_dir().with_name("facts") / content_hash(kind, inputs, source_digest(), package_versions(LIBRARIES))
    with suppress(OSError, ValueError):  # there is none yet, or not a whole one
        return json.loads(path.read_bytes())
    found = compute()
    with suppress(OSError):  # a home that cannot be written: computed each time
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.write_text(json.dumps(found))
        temporary.replace(path)
    return found
