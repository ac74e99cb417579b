"""Problems of a recipe that only show when its sections are seen together.

They are checked on every section that parses by itself, even where others do not, so that all of a recipe's problems
come in one go.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from distill.builtin_benchmarks import BUILTIN_BENCHMARKS
from distill.config import BenchmarkConfig, StudentConfig
from distill.config_mix import BothMix, MergeConfig, MixConfig
from distill.config_sources import GymSource
from distill.config_teachers import AskedTeacher, EndpointTeacher, TeacherConfig, VllmTeacher
from distill.errors import Problem
from distill.recipe_checks_eval import speculative_problems
from distill.recipe_checks_forecast import forecast_problems
from distill.recipe_checks_mix import (
    early_problems,
    filter_problems,
    merge_problems,
    mix_problems,
    mode_problems,
    one_of,
    search_problems,
)
from distill.train.trackers import TRACKERS, missing_trackers

SectionT = TypeVar("SectionT")
MERGE = TypeAdapter(MergeConfig)


def cross_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """Problems that only show when sections are seen together."""
    teachers = _parsed(TypeAdapter(TeacherConfig), raw.get("teachers"))
    students = _parsed(TypeAdapter(StudentConfig), raw.get("students"))
    mixes = _parsed(TypeAdapter(MixConfig), raw.get("mixes"))
    pools = {name: _samples(teachers, name) for name in _names(raw.get("teachers"))}
    ours = [teacher for teacher in teachers if isinstance(teacher, VllmTeacher)]
    asked = [teacher for teacher in teachers if isinstance(teacher, AskedTeacher)]
    return [
        *_duplicate_names(raw),
        *_unknown_models(raw, [*_numbered("teachers", ours), *_numbered("students", students)]),
        *(problem for mix in mixes for problem in mix_problems(mix, pools, _names(raw.get("students")))),
        *(
            problem
            for mix in mixes
            for problem in mode_problems(mix, _styles(teachers), _section(raw, "filters").get("too_long_takes"))
        ),
        *filter_problems(_section(raw, "filters"), mixes, _section(raw, "train").get("max_length", 4096)),
        *(problem for teacher in asked for problem in _teacher_problems(teacher)),
        *(problem for teacher in ours for problem in _engine_problems(teacher)),
        *_same_teachers(teachers),
        *_length_problems(raw, students),
        *(problem for student in students for problem in _batch_problems(raw, student)),
        *_budget_problems(_section(raw, "train")),
        *_tracker_problems(_section(raw, "train")),
        *_unequal_arms(_section(raw, "train"), mixes),
        *merge_problems(_parsed(MERGE, raw.get("merges")), mixes),
        *early_problems(_section(raw, "train"), mixes),
        *search_problems(raw, mixes, _names(raw.get("students"))),
        *(problem for student in students for problem in _layout_problems(student)),
        *_base_problems(students, _names(raw.get("students"))),
        *_benchmark_problems(raw),
        *_template_problems(raw),
        *_leak_problems(raw),
        *_evaluate_problems(raw),
        *speculative_problems(_section(raw, "evaluate"), _names(raw.get("students")), mixes, _seeds(raw)),
        *forecast_problems(_section(raw, "forecast"), _names(raw.get("teachers"))),
    ]


def _parsed(section: TypeAdapter[SectionT], items: Any) -> list[SectionT]:
    """The items of a list that are valid by themselves; the others are reported as field problems."""
    parsed = []
    for item in items if isinstance(items, list | tuple) else ():
        try:
            parsed.append(section.validate_python(item))
        except ValidationError:
            continue
    return parsed


def _names(items: Any) -> list[str]:
    listed = items if isinstance(items, list | tuple) else ()
    return [str(item["name"]) for item in listed if isinstance(item, dict) and "name" in item]


def _styles(teachers: Iterable[TeacherConfig]) -> dict[str, str]:
    return {teacher.name: str(teacher.style) for teacher in teachers}


def _samples(teachers: Sequence[TeacherConfig], name: str) -> int:
    """Most traces per prompt of a teacher; of one that does not parse nothing is known."""
    return next((teacher.num_samples for teacher in teachers if teacher.name == name), 0)


def _seeds(raw: Mapping[str, Any]) -> Sequence[Any]:
    seeds = _section(raw, "train").get("seeds", ())
    return seeds if isinstance(seeds, list | tuple) else ()


def _numbered(where: str, items: Sequence[Any]) -> list[tuple[str, str]]:
    return [(f"{where}[{item.name}].model", item.model) for item in items]


def _section(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def _duplicate_names(raw: Mapping[str, Any]) -> Iterator[Problem]:
    for section in ("teachers", "mixes", "students"):
        names = _names(raw.get(section))
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Problem(section, f"the name {name!r} is used {names.count(name)} times", "give each its own name")


def _unknown_models(raw: Mapping[str, Any], uses: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    models = _section(raw, "models")
    for where, model in uses:
        if model not in models:
            yield Problem(where, f"no model is called {model!r}", one_of(model, models))


def _same_teachers(teachers: Sequence[TeacherConfig]) -> Iterator[Problem]:
    """Two teachers that write the same traces would be one pool under two names."""
    first: dict[str, str] = {}
    free = {"name", "num_samples", "num_correct", "usd_per_million_tokens", "replicas", "gpu"}
    for teacher in teachers:
        other = first.setdefault(teacher.model_dump_json(exclude=free), teacher.name)
        if other != teacher.name:
            what = f"is the same teacher as {other!r}: it would write the same traces"
            yield Problem(f"teachers[{teacher.name}]", what, "keep one, or give them different chat or sampling")


def _engine_problems(teacher: VllmTeacher) -> Iterator[Problem]:
    where, engine, sampling = f"teachers[{teacher.name}]", teacher.engine, teacher.sampling
    if sampling.max_tokens >= engine.max_model_len:
        room = f"engine.max_model_len {engine.max_model_len}"
        what = f"sampling.max_tokens {sampling.max_tokens} leaves no room for a prompt in {room}"
        yield Problem(where, what, "lower max_tokens or raise engine.max_model_len")
    if teacher.replicas[0] < 1 or teacher.replicas[0] > teacher.replicas[1]:
        what = f"{list(teacher.replicas)} is no range"
        yield Problem(f"{where}.replicas", what, "use [fewest, most] with 1 <= fewest <= most")


def _teacher_problems(teacher: AskedTeacher) -> Iterator[Problem]:
    where, sampling = f"teachers[{teacher.name}]", teacher.sampling
    if teacher.num_samples > 1 and sampling.temperature == 0:
        what = f"num_samples {teacher.num_samples} at temperature 0 writes the same trace {teacher.num_samples} times"
        yield Problem(where, what, "raise sampling.temperature or set num_samples = 1")
    if teacher.num_correct > teacher.num_samples:
        what = f"num_correct {teacher.num_correct} cannot be reached with num_samples {teacher.num_samples}"
        yield Problem(where, what, "raise num_samples or lower num_correct")
    if isinstance(teacher, EndpointTeacher) and teacher.max_usd_total and not teacher.usd_per_million_tokens:
        what = f"max_usd_total {teacher.max_usd_total:g} cannot be kept without a price"
        yield Problem(where, what, "set usd_per_million_tokens")
    if "{problem}" not in teacher.chat.template:
        yield Problem(f"{where}.chat.template", "does not contain {problem}", "say where the problem goes")


def _length_problems(raw: Mapping[str, Any], students: Sequence[StudentConfig]) -> Iterator[Problem]:
    train, models = _section(raw, "train"), _section(raw, "models")
    max_length = train.get("max_length", 4096)
    for student in students:
        model = models.get(student.model)
        context = model.get("context_tokens") or _local_context(model) if isinstance(model, dict) else None
        if isinstance(context, int) and isinstance(max_length, int) and max_length > context:
            what = f"train.max_length {max_length} is longer than the context of {student.model!r}, {context} tokens"
            yield Problem(f"students[{student.name}]", what, f"set train.max_length to at most {context}")
    if "{problem}" not in str(_section(raw, "student_chat").get("template", "{problem}")):
        yield Problem("student_chat.template", "does not contain {problem}", "say where the problem goes")


def _local_context(model: Mapping[str, Any]) -> int | None:
    """Context of a model that is a local folder, from its config.json; None where it cannot be known yet."""
    for source in model.get("sources", ()):
        config = Path(str(source)) / "config.json"
        if config.is_file():
            value = json.loads(config.read_text()).get("max_position_embeddings")
            return value if isinstance(value, int) else None
    return None


def _batch_problems(raw: Mapping[str, Any], student: StudentConfig) -> Iterator[Problem]:
    micro = student.micro_batch_size or 1
    batch_size, rows = _section(raw, "train").get("batch_size", 16), micro * student.num_workers
    if isinstance(batch_size, int) and batch_size > 0 and batch_size % rows:
        factors = f"micro_batch_size {micro} x num_workers {student.num_workers}"
        what = f"train.batch_size {batch_size} is not a multiple of {factors}"
        yield Problem(f"students[{student.name}]", what, f"use a batch size that {rows} divides")


def _budget_problems(train: Mapping[str, Any]) -> Iterator[Problem]:
    """A budget that lacks its number, or a number that its budget would not look at."""
    budget = train.get("budget", "epochs")
    needed = {"steps": ["num_steps"], "tokens": ["num_steps", "num_tokens"]}.get(budget, [])
    for name in ("num_steps", "num_tokens"):
        if name in needed and train.get(name) is None:
            yield Problem(f"train.{name}", f"is missing, and train.budget is {budget!r}", "say how many")
        if name not in needed and train.get(name) is not None:
            what = f"{train[name]} is never looked at: train.budget is {budget!r}"
            yield Problem(f"train.{name}", what, f"remove it, or set train.budget = {name.removeprefix('num_')!r}")


def _tracker_problems(train: Mapping[str, Any]) -> Iterator[Problem]:
    """Trackers whose library is missing: known before the teachers are paid."""
    told = train.get("trackers")
    names = [name for name in told if name in TRACKERS] if isinstance(told, list | tuple) else []
    for name in missing_trackers(names):
        remedy = f"pip install 'mix-distillation-on-ray[{name}]', on every machine of the cluster"
        yield Problem("train.trackers", f"{name} is not installed here", remedy)
    if train.get("tracking_uri") and "mlflow" not in names:
        yield Problem("train.tracking_uri", "is MLflow's, and train.trackers does not name it", 'add "mlflow" there')


def _unequal_arms(train: Mapping[str, Any], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Arms that take different numbers of steps whatever the teachers write: `both` has a row per pool and prompt."""
    if train.get("budget", "epochs") != "epochs" or train.get("unmatched"):
        return
    rows = {mix.name: len(mix.shares) if isinstance(mix, BothMix) else 1 for mix in mixes}
    if len(set(rows.values())) > 1:
        wide = ", ".join(f"{name} {count}" for name, count in rows.items())
        what = f"the arms take different numbers of optimiser steps; rows per prompt: {wide}"
        remedy = 'set train.budget = "steps" with train.num_steps, or train.unmatched = true'
        yield Problem("train.budget", what, remedy)


def _layout_problems(student: StudentConfig) -> Iterator[Problem]:
    where = f"students[{student.name}]"
    if student.max_workers is not None and student.max_workers < student.num_workers:
        what = f"max_workers {student.max_workers} is less than num_workers {student.num_workers}"
        yield Problem(where, what, "raise max_workers or leave it out")
    if student.offload_optimizer and student.zero_stage == 0:
        yield Problem(where, "offload_optimizer needs ZeRO, and zero_stage is 0", "set zero_stage to 1, 2 or 3")


def _base_problems(students: Sequence[StudentConfig], names: Sequence[str]) -> Iterator[Problem]:
    """A base of no student, of itself, of another base, or of one that is trained from the very same weights."""
    models = {student.name: student.model for student in students}
    bases = {student.name: student.base_of for student in students if student.base_of}
    for name, tuned in bases.items():
        where, others = f"students[{name}].base_of", [other for other in names if other not in bases]
        if tuned not in names:
            yield Problem(where, f"no student is called {tuned!r}", one_of(tuned, others))
        elif tuned in bases:
            what = "names the student itself" if tuned == name else f"{tuned!r} is the base of {bases[tuned]!r}"
            yield Problem(where, what, f"name a student that was instruction-tuned; {one_of(tuned, others)}")
        elif models.get(tuned) == models[name]:
            what = f"{tuned!r} is trained from the same model, {models[name]!r}"
            yield Problem(where, what, "give one of them the model before, the other the one after tuning")


def _benchmark_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    known = {*_section(raw, "benchmarks"), *BUILTIN_BENCHMARKS}
    named = [("evaluate.benchmarks", name) for name in _section(raw, "evaluate").get("benchmarks", ())]
    named += [("search.benchmark", name) for name in filter(None, [_section(raw, "search").get("benchmark")])]
    for where, name in named:
        if name not in known:
            yield Problem(where, f"no benchmark is called {name!r}", one_of(str(name), known))


def _template_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    for name, benchmark in _section(raw, "benchmarks").items():
        template = benchmark.get("template") if isinstance(benchmark, dict) else None
        if isinstance(template, str) and "{problem}" not in template:
            where = f"benchmarks.{name}.template"
            yield Problem(where, "does not contain {problem}", "say where the problem goes")


def _leak_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """A benchmark drawn by the generator and seed of the training prompts would be the training prompts."""
    sources = _section(raw, "prompts").get("sources", ())
    for name, benchmark in _section(raw, "benchmarks").items():
        try:
            source = BenchmarkConfig.model_validate(benchmark).source
        except ValidationError:
            continue
        if isinstance(source, GymSource) and any(_same_generator(source, other) for other in sources):
            what = f"draws {source.task!r} with seed {source.seed}, as the training prompts do"
            yield Problem(f"benchmarks.{name}", what, "give the benchmark another seed")


def _same_generator(source: GymSource, other: Any) -> bool:
    keys = ("kind", "task", "seed")
    return isinstance(other, dict) and all(other.get(key, 0) == getattr(source, key) for key in keys)


def _evaluate_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    evaluate = _section(raw, "evaluate")
    samples, temperature = evaluate.get("num_samples", 1), _section(evaluate, "sampling").get("temperature", 0.0)
    if isinstance(samples, int) and samples > 1 and temperature == 0:
        what = f"num_samples {samples} at temperature 0 gives {samples} times the same completion"
        yield Problem("evaluate", what, "raise evaluate.sampling.temperature or set num_samples = 1")
    benchmarks = [str(name) for name in evaluate.get("benchmarks", ())]
    for name in _section(evaluate, "repeated"):
        if name not in benchmarks:
            yield Problem("evaluate.repeated", f"{name!r} is not evaluated", one_of(name, benchmarks))
