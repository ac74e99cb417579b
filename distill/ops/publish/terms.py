"""What the licences of a student's sources allow. Identifiers only: the texts of the licences decide."""

import re
from collections.abc import Iterable, Mapping

from distill.config.recipe import Recipe
from distill.config.students import StudentConfig
from distill.core.errors import InputError
from distill.mix.export.licences import UNKNOWN, Source, base_source, sources

NO_DERIVATIVES = re.compile(r"(^|-)nd(-|$)|no-?deriv", re.IGNORECASE)
"""Creative Commons' licences without derivatives: a trained model of such a base may not be passed on."""
RESERVED = re.compile(r"proprietary|all[ -]rights[ -]reserved|unlicensed|no[ -]redistribution", re.IGNORECASE)
NON_COMMERCIAL = re.compile(r"(^|-)nc(-|$)|non-?commercial", re.IGNORECASE)
SHARE_ALIKE = re.compile(r"(^|-)sa(-|$)|gpl|share-?alike", re.IGNORECASE)
ATTRIBUTION = re.compile(r"^cc-by|^odc-by", re.IGNORECASE)


def chain(recipe: Recipe, student: StudentConfig, model_folders: Mapping[str, str]) -> list[Source]:
    """Everything that the student was made from: its base model, then prompts and teachers. Each once."""
    base = base_source(recipe, student.model, model_folders)
    return list(dict.fromkeys([base, *sources(recipe, dict(model_folders))]))


def refuse_forbidden(found: Iterable[Source]) -> None:
    """That no base model or teacher is under a licence that forbids to pass on what is made from it.

    Raises:
        InputError: one is.
    """
    for source in found:
        if NO_DERIVATIVES.search(source.licence) or RESERVED.search(source.licence):
            raise InputError(
                f"{source.role} {source.name}: its licence {source.licence!r} forbids to publish what is made from it"
                f" ({source.terms}) -> keep the student to yourself, or ask its owner"
            )


def obligations(found: Iterable[Source]) -> list[str]:
    """What the licences of the chain ask of whoever uses or passes on the student, in sentences."""
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
