"""Drops prompts whose reference the verifier cannot grade against: every answer to them would be ERROR or wrong."""

from distill.core.run_dir import StageName
from distill.core.schema import Dropped, Prompt, dropped
from distill.grading import GraderPool
from distill.grading.own_gold import own_gold_faults, reference_fault
from distill.prompts.load import Loaded

NO_ANSWER = "reference holds no answer"
NOT_ITSELF = "reference is not graded correct against itself"


def without_ungradable(loaded: Loaded) -> Loaded:
    """The prompts whose own reference is graded CORRECT; the others are dropped with the verdict as detail."""
    with GraderPool() as pool:
        faults = own_gold_faults(loaded.prompts, pool)
    pairs = list(zip(loaded.prompts, faults, strict=True))
    drops = [_drop(prompt, fault) for prompt, fault in pairs if fault]
    return loaded._replace(prompts=[prompt for prompt, fault in pairs if not fault], drops=[*loaded.drops, *drops])


def _drop(prompt: Prompt, fault: str) -> Dropped:
    reason = NO_ANSWER if reference_fault(prompt.reference, prompt.answer_kind) else NOT_ITSELF
    row = {"prompt_id": prompt.prompt_id, "problem": prompt.problem[:1000], "reference": prompt.reference[:500]}
    return dropped(StageName.PROMPTS, prompt.source, reason, detail=fault, row=row)
