"""Residues: "x \\equiv 5 \\pmod{17}" and "22 (mod 17)" are one class, and state 5."""

import re
from typing import NamedTuple

from distill.grading.numbers import Number

DECORATION = re.compile(r"\\text|[{}\s]")
CONGRUENCE = re.compile(
    r"(?:([A-Za-z])\\equiv)?([-+]?\d{1,40}(?:[,;][-+]?\d{1,40})*)(?:\\pmod|\(?\\?b?mod)(\d{1,40})\)?"
)


class Congruence(NamedTuple):
    """Residue classes of one modulus, and the unknown that lies in them ("" if none is named)."""

    variable: str
    residues: tuple[int, ...]
    modulus: int

    @property
    def classes(self) -> frozenset[int]:
        """The residues from 0 to the modulus."""
        return frozenset(residue % self.modulus for residue in self.residues)


def parse_congruence(text: str) -> Congruence | None:
    """A normalized answer as residues of a modulus, or None."""
    match = CONGRUENCE.fullmatch(DECORATION.sub("", text)) if "mod" in text else None
    if match is None or int(match[3]) == 0:
        return None
    return Congruence(match[1] or "", tuple(map(int, re.split("[,;]", match[2]))), int(match[3]))


def same_congruences(reference: Congruence, answer: Congruence) -> bool:
    """Whether two are the same classes of the same modulus. An unknown with another name is another unknown."""
    is_renamed = bool(reference.variable and answer.variable) and reference.variable != answer.variable
    return not is_renamed and reference.modulus == answer.modulus and reference.classes == answer.classes


def states_number(congruence: Congruence, number: Number) -> bool:
    """Whether the residue is written as just this number."""
    return len(congruence.residues) == 1 and congruence.residues[0] == number.value
