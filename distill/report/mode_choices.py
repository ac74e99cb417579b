"""Which modes students choose that write their mode themselves: by the level of the problems."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, benchmark_scores
from distill.core.schema import Prompt, Score, Verdict
from distill.evaluate.arms import arm_name
from distill.evaluate.read_scores import ScoredModel, expected_models
from distill.report.level_table import level_order
from distill.report.score_data import ModeChoice
from serve.api.modes import chosen_in


def mode_choices(recipe: Recipe, run_dir: RunDir, problems: Mapping[str, Mapping[str, Prompt]]) -> list[ModeChoice]:
    """The choices of every student that was left to choose (`evaluate.arms.mode`), on every benchmark.

    Args:
        recipe: of the run.
        run_dir: with its scores.
        problems: benchmark -> prompt id -> problem.
    """
    openings = dict(_choosing(recipe))
    models = [model for model in expected_models(recipe) if model.mix in openings]
    return [
        choice
        for student, mix in dict.fromkeys((model.student, model.mix) for model in models)
        for benchmark in recipe.evaluate.benchmarks
        for choice in _choices(
            [model for model in models if (model.student, model.mix) == (student, mix)],
            benchmark,
            run_dir,
            openings[mix],
            {name: prompt.level for name, prompt in problems[benchmark].items()},
        )
    ]


def _choosing(recipe: Recipe) -> Iterator[tuple[str, dict[str, str]]]:
    """Evaluation arms that choose, by the names of the report, with mode -> opening of their mix."""
    openings = {mix.name: {str(style): text for style, text in mix.openings.items()} for mix in recipe.mixes}
    for arm in recipe.evaluate.arms:
        for of in arm.answering:
            mix = of.partition("@")[2]
            if arm.mode and openings.get(mix):
                yield from ((arm_name(mix, plan.suffix), openings[mix]) for plan in arm.plans)


def _choices(
    models: Sequence[ScoredModel],
    benchmark: str,
    run_dir: RunDir,
    openings: Mapping[str, str],
    levels: Mapping[str, str],
) -> Iterator[ModeChoice]:
    """One student with all of its training seeds on one benchmark: by level, then over all of them."""
    chosen: dict[str, Counter[str]] = {}
    correct: dict[str, Counter[str]] = {}
    for model in models:
        columns = ("prompt_id", "completion", "verdict")
        table = run_dir.read_table(*benchmark_scores(model.name, benchmark), row_type=Score, columns=columns)
        for prompt_id, completion, verdict in zip(*(table[name].to_pylist() for name in columns), strict=True):
            if verdict == Verdict.ERROR:
                continue
            mode = chosen_in(completion, openings)
            for level in dict.fromkeys((levels.get(prompt_id, ""), "")):
                chosen.setdefault(level, Counter())[mode] += 1
                correct.setdefault(level, Counter())[mode] += verdict == Verdict.CORRECT
    listed = level_order(chosen)
    for level in [*(listed if len(listed) > 1 else []), ""]:
        if level in chosen:
            modes = [mode for mode in (*openings, "") if mode or chosen[level][mode]]
            yield ModeChoice(
                student=models[0].student,
                mix=models[0].mix,
                benchmark=benchmark,
                level=level,
                completions=chosen[level].total(),
                chosen={mode: chosen[level][mode] for mode in modes},
                correct={mode: correct[level][mode] for mode in modes},
            )
