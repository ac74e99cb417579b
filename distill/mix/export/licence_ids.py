"""Identifiers of licences as the model hub writes them, however a card, a package or a recipe spells them."""

import re

HUB_IDS = frozenset([
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
    "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1",
    "lgpl-3.0", "lgpl-lr", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit",
    "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql",
    "unlicense", "wtfpl", "zlib",
])  # fmt: skip
"""Licences that the hub has a name of its own for. Any other name in front matter fails a push."""

NAMED_IDS = frozenset(["deepseek", "eupl-1.2", "mnpl", "mrl", "qwen", "qwen-research", "tongyi-qianwen"])
"""What cards name as `license_name:` beside `license: other`."""

UNCLEAR_IDS = frozenset(["other", "unknown", "cc"])
"""What the hub has for a licence without saying which one it is."""

KNOWN_IDS = HUB_IDS | NAMED_IDS | UNCLEAR_IDS

OTHER = "other"
"""The hub's name of a licence that is none of its own."""
OWN_TERMS = "terms-of-every-source"
"""Name of the licence of what has several sources."""

_SPELLINGS = {
    "bsd-2": "bsd-2-clause",
    "bsd-3": "bsd-3-clause",
    "cc0": "cc0-1.0",
    "gemma-terms-of-use": "gemma",
    "mistral-ai-research": "mrl",
    "mistral-ai-non-production": "mnpl",
    "new-bsd": "bsd-3-clause",
    "simplified-bsd": "bsd-2-clause",
}
_RULES = (
    (r"^(?:the|gnu)-", ""),
    (r"-licen[cs]e(?:-agreement)?(?=-|$)", ""),
    (r"-version(?=-)", ""),
    (r"-(?:only|or-later|international)$", ""),
    (r"(?<=\d)\+$", ""),
    (r"^([al]?gpl|apache|mpl)-?v?(?=\d)", r"\1-"),
    (r"-v(?=\d)", "-"),
    (r"^(?:meta-)?llama[.-]?(\d)(?:-community)?$", r"llama\1"),
    (r"^(?:meta-)?llama[.-]?(\d)[.-](\d)(?:-community)?$", r"llama\1.\2"),
    (r"^(odc-by|odbl|pddl|c-uda|gfdl)-\d.*$", r"\1"),
)  # fmt: skip
"""Patterns of a spelling -> what the hub writes, one after the other."""


def licence_ids(stated: str) -> tuple[str, ...]:
    """The licences that a text states, each once: several where it joins them with "and", a comma or a semicolon.

    One that is not known stays as it is spelt, in the characters of an identifier; so does a choice ("MIT or GPL").
    """
    whole = licence_id(stated)
    parts = [whole] if whole in KNOWN_IDS else map(licence_id, re.split(r"\s+and\s+|[,;]", stated, flags=re.IGNORECASE))
    return tuple(dict.fromkeys(part for part in parts if part))


def licence_id(stated: str) -> str:
    """The identifier of one licence: `GPLv3`, `GPL-3.0-only` and `gpl-3.0` are the same; empty where none is stated."""
    found = re.sub(r"[^a-z0-9.+]+", "-", stated.lower()).strip("-.")
    for pattern, text in _RULES:
        if found in KNOWN_IDS:
            return found
        found = re.sub(pattern, text, found)
    found = _SPELLINGS.get(found, found)
    return f"{found}.0" if f"{found}.0" in KNOWN_IDS else found


def front_matter_fields(licence: str) -> dict[str, str]:
    """How front matter states a licence, so that the hub takes it.

    `licence`: an identifier; OTHER where no single one applies.
    """
    if licence in HUB_IDS:
        return {"license": licence}
    is_name = licence not in UNCLEAR_IDS and re.fullmatch(r"[a-z0-9.-]+", licence)
    return {"license": OTHER, "license_name": licence if is_name else OWN_TERMS}
