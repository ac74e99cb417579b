"""The reference answer as the grader reads it, and why a reference cannot be graded against."""

from functools import lru_cache

from distill.grading.compare import Prepared, prepare
from distill.grading.extract import Found, find_box, find_marked

MIN_SENTENCE_WORDS = 4


def reference_text(reference: str) -> str:
    """The answer inside a reference: a bare value, `$...$`, a sentence, or a whole solution with a box or `####`."""
    if "\\boxed" in reference or "\\fbox" in reference:
        found = find_box(reference)
        return found.text if isinstance(found, Found) else reference
    if "####" in reference:
        return reference.rpartition("####")[2].strip()
    if "nswer" in reference and len(reference.split()) >= MIN_SENTENCE_WORDS:
        marked = find_marked(reference)
        return marked.text.rstrip(". ") if marked else reference.strip()
    return reference.strip()


@lru_cache(maxsize=4096)
def prepare_reference(reference: str) -> Prepared:
    """As `prepare`; cached, since one prompt is graded many times."""
    return prepare(reference_text(reference))
