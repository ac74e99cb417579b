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


_ = StageName
STAGES: tuple[Stage, ...] = (
    Stage(_.PROMPTS, prompts_stage, reads=(), writes=(PROMPTS,)),
    Stage(_.GENERATE, generate_stage, reads=(_.PROMPTS,), writes=((_.GENERATE,),)),
    Stage(_.VERIFY, verify_stage, reads=(_.PROMPTS, _.GENERATE), writes=(VERDICTS,)),
    Stage(_.SEARCH, search_stage, reads=(_.PROMPTS, _.GENERATE, _.VERIFY), writes=((_.SEARCH,),)),
    Stage(_.MIX, mix_stage, reads=(_.PROMPTS, _.GENERATE, _.VERIFY, _.SEARCH), writes=(TRACE_FATES,)),
    Stage(_.TRAIN, train_stage, reads=(_.MIX,), writes=((_.TRAIN,),)),
    Stage(_.EVALUATE, evaluate_stage, reads=(_.PROMPTS, _.TRAIN), writes=((_.EVALUATE,),)),
    Stage(_.REPORT, report_stage, reads=(*_,)[:-1], writes=(REPORT_PAGE, REPORT_JSON, REPORT_SCORES)),
)
