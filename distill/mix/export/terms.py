"""What the licences of sources allow and ask for. Identifiers only: the texts of the licences decide."""

import re
from collections.abc import Iterable, Sequence

from distill.core.errors import InputError
from distill.mix.export.licences import UNKNOWN, Source

NO_DERIVATIVES = re.compile(r"(^|-)nd(-|$)|no-?deriv", re.IGNORECASE)
"""Creative Commons' licences without derivatives: what is made from such a source may not be passed on."""
RESERVED = re.compile(r"proprietary|all[ -]rights[ -]reserved|unlicensed|no[ -]redistribution", re.IGNORECASE)
NON_COMMERCIAL = re.compile(r"(^|-)nc(-|$)|non-?commercial", re.IGNORECASE)
SHARE_ALIKE = re.compile(r"(^|-)sa(-|$)|gpl|share-?alike", re.IGNORECASE)
ATTRIBUTION = re.compile(r"^cc-by|^odc-by", re.IGNORECASE)
PERMISSIVE = re.compile(r"^(mit|apache-2\.0|bsd(-[23]-clause)?|isc|cc0-1\.0|pddl|unlicense)$", re.IGNORECASE)
OTHER = "other"
"""The hub's name of a licence that is none of its own."""


def refuse_forbidden(found: Iterable[Source]) -> None:
    """That no source is under a licence that forbids to pass on what is made from it.

    Raises:
        InputError: one is.
    """
    for source in found:
        if NO_DERIVATIVES.search(source.licence) or RESERVED.search(source.licence):
            raise InputError(
                f"{source.role} {source.name}: its licence {source.licence!r} forbids to publish what is made from it"
                f" ({source.terms}) -> keep what was made from it to yourself, or ask its owner"
            )


def obligations(found: Iterable[Source]) -> list[str]:
    """What the licences of the sources ask of whoever uses or passes on what was made from them, in sentences."""
    found = list(found)

    def named(pattern: re.Pattern[str]) -> str:
        return ", ".join(dict.fromkeys(f"{one.name} ({one.licence})" for one in found if pattern.search(one.licence)))

    rules = (
        (named(ATTRIBUTION), "Name these sources where you pass it on"),
        (named(SHARE_ALIKE), "Pass it on under the same licence as these"),
        (named(NON_COMMERCIAL), "No commercial use, because of these"),
        (", ".join(one.name for one in found if one.licence == UNKNOWN), "Licence not recorded here, read it first"),
    )
    return [f"{rule}: {names}." for names, rule in rules if names]


def carried_licence(found: Sequence[Source]) -> str:
    """The hub's name of the licence of data from these sources; `other` where none follows from theirs.

    The one that all are under; else the only one that is to be carried over, for the same licence or for attribution,
    where all others are permissive.
    """
    licences = {source.licence.lower() for source in found}
    asking = {one for one in licences if not PERMISSIVE.match(one)}
    carried = licences if len(licences) == 1 else asking
    if len(carried) != 1 or UNKNOWN in carried:
        return OTHER
    (only,) = carried
    return only if len(licences) == 1 or SHARE_ALIKE.search(only) or ATTRIBUTION.search(only) else OTHER
