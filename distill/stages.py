"""The stages in their order: what each is run by, reads and writes. The driver walks this table."""

from collections.abc import Callable
from dataclasses import dataclass

from distill.core.manifest import Manifest
from distill.core.run_dir import (
    PROMPTS,
    REPORT_JSON,
    REPORT_PAGE,
    REPORT_SCORES,
    TRACE_FATES,
    VERDICTS,
    Parts,
    StageName,
)
from distill.evaluate.stage import evaluate_stage
from distill.generate.stage import generate_stage
from distill.mix.stage import mix_stage
from distill.prompts.stage import prompts_stage
from distill.report.stage import report_stage
from distill.run.context import RunContext
from distill.search.stage import search_stage
from distill.train.stage import train_stage
from distill.verify.stage import verify_stage


@dataclass(frozen=True)
class Stage:
    """One step of a run."""

    name: StageName
    run: Callable[[RunContext], Manifest]
    """Does it; the driver completes the manifest with key, time and memory, and writes it last."""
    reads: tuple[StageName, ...]
    """Stages whose files it reads: they must be done before it."""
    writes: tuple[Parts, ...]
    """Files, or the folder, that are there once it is done."""


S = StageName
STAGES = (
    Stage(S.PROMPTS, prompts_stage, reads=(), writes=(PROMPTS,)),
    Stage(S.GENERATE, generate_stage, reads=(S.PROMPTS,), writes=((S.GENERATE,),)),
    Stage(S.VERIFY, verify_stage, reads=(S.PROMPTS, S.GENERATE), writes=(VERDICTS,)),
    Stage(S.SEARCH, search_stage, reads=(S.PROMPTS, S.GENERATE, S.VERIFY), writes=((S.SEARCH,),)),
    Stage(S.MIX, mix_stage, reads=(S.PROMPTS, S.GENERATE, S.VERIFY, S.SEARCH), writes=(TRACE_FATES,)),
    Stage(S.TRAIN, train_stage, reads=(S.MIX,), writes=((S.TRAIN,),)),
    Stage(S.EVALUATE, evaluate_stage, reads=(S.PROMPTS, S.TRAIN), writes=((S.EVALUATE,),)),
    Stage(
        S.REPORT,
        report_stage,
        reads=(S.PROMPTS, S.GENERATE, S.VERIFY, S.SEARCH, S.MIX, S.TRAIN, S.EVALUATE),
        writes=(REPORT_PAGE, REPORT_JSON, REPORT_SCORES),
    ),
)
