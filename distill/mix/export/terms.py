"""What the licences of sources allow and ask for. Identifiers only: the texts of the licences decide."""

import re
from collections.abc import Iterable, Sequence

from distill.core.errors import InputError
from distill.mix.export.licence_ids import OTHER
from distill.mix.export.licences import Source

NO_DERIVATIVES = re.compile(r"(^|-)nd(-|$)|no-?deriv")
"""Creative Commons' licences without derivatives: what is made from such a source may not be passed on."""
RESERVED = re.compile(r"proprietary|all-rights-reserved|unlicensed|no-redistribution")
CREATIVE_COMMONS = re.compile(r"cc-by(-nc)?(-sa|-nd)?-\d\.\d(-[a-z]{2,3})?")

READ = "Licence not recorded, or not known here, read it first"
NAME = "Name these sources where you pass it on"
SAME = "Pass it on under the same licence as these"
NON_COMMERCIAL = "No commercial use, because of these"
RESEARCH = "Use for research only, because of these"
NOTICES = "Keep the copyright and licence notices of these"
COPY = "Pass on a copy of the licence of these"
USE_LIMITS = "Pass on the limits of use that these set, and keep to them"
COMPUTATION = "Use the data of these for computation only"
LLAMA = 'Show "Built with Llama", and begin the name of a model that is made with these with "Llama"'
LLAMA_3 = 'Show "Built with Meta Llama 3", and begin the name of a model that is made with these with "Llama 3"'
QWEN = 'Show "Built with Qwen" or "Improved using Qwen" with a model that is made with these'
DISTILLED = "A model that learns from outputs of these counts as their derivative"
OWN_KIND = "These ask that their outputs improve no language models but their own kind"
LARGE = "These ask for a licence of their own for services with very many users"

ORDER = (READ, NON_COMMERCIAL, RESEARCH, SAME, NAME, LLAMA, LLAMA_3, QWEN, DISTILLED, OWN_KIND, USE_LIMITS, COMPUTATION,
         COPY, NOTICES, LARGE)  # fmt: skip

_NOTICES_ONLY = (
    "mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "ncsa", "postgresql",
    "afl-3.0", "ecl-2.0", "zlib",
)  # fmt: skip
_COPYLEFT = (
    "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "epl-1.0", "epl-2.0",
    "eupl-1.1", "eupl-1.2", "osl-3.0", "gfdl", "cdla-sharing-1.0",
)  # fmt: skip
_RAIL = (
    "openrail", "openrail++", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m",
)  # fmt: skip

ASKS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(["cc0-1.0", "pddl", "unlicense", "wtfpl"], ()),
    **dict.fromkeys(_NOTICES_ONLY, (NOTICES,)),
    **dict.fromkeys(_COPYLEFT, (SAME, NOTICES)),
    **dict.fromkeys(["cdla-permissive-1.0", "cdla-permissive-2.0"], (COPY,)),
    **dict.fromkeys(["odc-by", "etalab-2.0"], (NAME,)),
    "odbl": (NAME, SAME),
    "c-uda": (COMPUTATION, NAME, SAME),
    **dict.fromkeys(_RAIL, (USE_LIMITS, COPY, NOTICES)),
    "deepseek": (USE_LIMITS, COPY),
    "gemma": (DISTILLED, USE_LIMITS, COPY, NOTICES),
    "llama2": (OWN_KIND, USE_LIMITS, COPY, NOTICES, LARGE),
    "llama3": (LLAMA_3, OWN_KIND, USE_LIMITS, COPY, NOTICES, LARGE),
    **dict.fromkeys(["llama3.1", "llama3.2", "llama3.3", "llama4"], (LLAMA, USE_LIMITS, COPY, NOTICES, LARGE)),
    "qwen": (QWEN, COPY, NOTICES, LARGE),
    "qwen-research": (NON_COMMERCIAL, QWEN, COPY, NOTICES),
    "tongyi-qianwen": (OWN_KIND, COPY, NOTICES, LARGE),
    **dict.fromkeys(["mrl", "mnpl"], (NON_COMMERCIAL, COPY)),
    **dict.fromkeys(["apple-amlr", "h-research", "intel-research"], (NON_COMMERCIAL, RESEARCH)),
}
"""Licence -> what it asks for, the heaviest part of it. One that is not here has to be read."""

_BY_NAME = (
    (re.compile(r"^cc-by-"), NAME),
    (re.compile(r"(^|-)nc(-|$)|non-?commercial"), NON_COMMERCIAL),
    (re.compile(r"(^|-)research(-|$)"), RESEARCH),
    (re.compile(r"(^|-)sa(-|$)|share-?alike"), SAME),
)
_CARRIED = {NAME, SAME, NON_COMMERCIAL, NOTICES}


def asks(licence: str) -> tuple[str, ...]:
    """What a licence asks for; of one that is not known here what its name says, and that it has to be read."""
    if licence in ASKS:
        return ASKS[licence]
    found = tuple(ask for pattern, ask in _BY_NAME if pattern.search(licence))
    return found if CREATIVE_COMMONS.fullmatch(licence) else (*found, READ)


def refuse_forbidden(found: Iterable[Source]) -> None:
    """That no source is under a licence that forbids to pass on what is made from it.

    Raises:
        InputError: one is.
    """
    for source in found:
        for licence in source.licences:
            if NO_DERIVATIVES.search(licence) or RESERVED.search(licence):
                raise InputError(
                    f"{source.role} {source.name}: its licence {licence!r} forbids to publish what is made from it"
                    f" ({source.terms}) -> keep what was made from it to yourself, or ask its owner"
                )


def obligations(found: Iterable[Source]) -> list[str]:
    """What the licences of the sources ask of whoever uses or passes on what was made from them, in sentences."""
    named: dict[str, list[str]] = {ask: [] for ask in ORDER}
    for source in dict.fromkeys(found):
        if not source.licences:
            named[READ].append(source.name)
        for licence in source.licences:
            for ask in asks(licence):
                named[ask].append(f"{source.name} ({licence})")
    return [f"{ask}: {', '.join(dict.fromkeys(names))}." for ask, names in named.items() if names]


def shared_licence(found: Sequence[Source]) -> str:
    """The licence that all sources are under; `other` where they are not, or one is not known."""
    licences = {licence for source in found for licence in source.licences}
    is_one = len(licences) == 1 and all(source.licences for source in found)
    return next(iter(licences)) if is_one else OTHER


def carried_licence(found: Sequence[Source]) -> str:
    """The licence of data from these sources; `other` where none follows from theirs.

    The one that all are under; else the only one that is to be carried over, for the same licence or for attribution,
    where all others are permissive.
    """
    if (shared := shared_licence(found)) != OTHER:
        return shared
    asking = {one for source in found for one in source.licences if not set(asks(one)) <= {NOTICES}}
    if len(asking) != 1 or not all(source.licences for source in found):
        return OTHER
    (only,) = asking
    return only if set(asks(only)) <= _CARRIED else OTHER
