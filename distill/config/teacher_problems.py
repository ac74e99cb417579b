"""Teachers that cannot be asked as a recipe says, each with the remedy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.config.base import circle, one_of
from distill.config.decides import identity
from distill.config.teachers import (
    AskedTeacher,
    DatasetTeacher,
    EndpointTeacher,
    Reader,
    RuleTeacher,
    TeacherConfig,
    VllmTeacher,
    read_pool,
)
from distill.core.errors import Problem
from distill.core.schema import content_hash


def same_teachers(teachers: Sequence[TeacherConfig]) -> Iterator[Problem]:
    """Two teachers that write the same traces would be one pool under two names."""
    first: dict[str, str] = {}
    for teacher in teachers:
        other = first.setdefault(content_hash(identity(teacher), _behind(teacher)), teacher.name)
        if other != teacher.name:
            what = f"is the same teacher as {other!r}: both would write the same traces"
            yield Problem(f"teachers[{teacher.name}]", what, "remove one, or change its chat or sampling")


def _behind(teacher: TeacherConfig) -> list[Any]:
    """The model, endpoint or data set of a teacher, and what it reads: `identity` leaves these out."""
    match teacher:
        case VllmTeacher():
            return [teacher.model, teacher.reads, teacher.takes]
        case EndpointTeacher():
            return [teacher.base_url, teacher.remote_model, teacher.reads, teacher.takes]
        case DatasetTeacher():
            return [identity(teacher.source)]
        case RuleTeacher():
            return [teacher.reads]


def engine_problems(teacher: VllmTeacher) -> Iterator[Problem]:
    """An engine without room for a prompt, and replicas that are no range."""
    where, engine, sampling = f"teachers[{teacher.name}]", teacher.engine, teacher.sampling
    if sampling.max_tokens >= engine.max_model_len:
        room = f"engine.max_model_len {engine.max_model_len}"
        what = f"sampling.max_tokens {sampling.max_tokens} leaves no room for a prompt in {room}"
        yield Problem(where, what, "lower max_tokens or raise engine.max_model_len")
    if teacher.replicas[0] < 1 or teacher.replicas[0] > teacher.replicas[1]:
        what = f"{list(teacher.replicas)} is not a range"
        yield Problem(f"{where}.replicas", what, "use [fewest, most] with 1 <= fewest <= most")


OWN_FIELDS = {
    "model": "remote_model",
    "messages": "chat",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "max_tokens": "sampling.max_tokens",
    "max_completion_tokens": 'sampling.max_tokens and token_limit_field = "max_completion_tokens"',
    "stop": "sampling.stop",
    "seed": "seed (of the recipe)",
    "n": "num_samples",
    "stream": "",
    "stream_options": "",
}
"""Field of a request -> what of the recipe decides it; empty: nothing does. Not for `extra_body`."""


def _endpoint_problems(teacher: EndpointTeacher) -> Iterator[Problem]:
    where = f"teachers[{teacher.name}]"
    for name in sorted(teacher.extra_body.keys() & OWN_FIELDS.keys()):
        own = OWN_FIELDS[name]
        remedy = f"remove it, and set {own}" if own else "remove it: replies are read whole"
        yield Problem(f"{where}.extra_body", f"holds {name!r}, which requests have already", remedy)
    if teacher.max_usd_total and not teacher.usd_per_million_tokens:
        what = f"max_usd_total {teacher.max_usd_total:g} cannot be kept without a price"
        yield Problem(where, what, "set usd_per_million_tokens")


def teacher_problems(teacher: AskedTeacher) -> Iterator[Problem]:
    """Samples that are all the same or too few, a template without the problem, and what an endpoint cannot take."""
    where, sampling = f"teachers[{teacher.name}]", teacher.sampling
    is_greedy = sampling.temperature == 0 and "temperature" not in getattr(teacher, "omit_sampling", ())
    if teacher.num_samples > 1 and is_greedy:
        what = f"num_samples {teacher.num_samples} at temperature 0 writes the same trace {teacher.num_samples} times"
        yield Problem(where, what, "raise sampling.temperature or set num_samples = 1")
    if teacher.num_correct > teacher.num_samples and teacher.reads is None:
        what = f"num_correct {teacher.num_correct} cannot be reached with num_samples {teacher.num_samples}"
        yield Problem(where, what, "raise num_samples or lower num_correct")
    if isinstance(teacher, EndpointTeacher):
        yield from _endpoint_problems(teacher)
    reads_in_prompt = teacher.reads is not None and teacher.continues is None
    if "{problem}" not in teacher.chat.template and not reads_in_prompt:
        yield Problem(f"{where}.chat.template", "does not contain {problem}", "add {problem} where the problem belongs")


# Readers

HOW_TO_READ = ("part", "keep", "keep_if", "takes", "continues", "teach")


def reader_problems(teachers: Sequence[TeacherConfig], names: Sequence[str]) -> Iterator[Problem]:
    """Teachers that read a pool which nobody fills, or which waits for themselves, or in a way that they cannot.

    Args:
        teachers: those that are valid by themselves.
        names: of all teachers.
    """
    known = {teacher.name: teacher for teacher in teachers}
    for teacher in teachers:
        if not isinstance(teacher, Reader):
            continue
        source = teacher.reads
        if source is None:
            yield from _not_reading(teacher)
        elif source not in names:
            remedy = one_of(source, [name for name in names if name != teacher.name])
            yield Problem(f"teachers[{teacher.name}].reads", f"no teacher is called {source!r}", remedy)
        else:
            yield from _cycle(teacher.name, known)
            yield from _reading(teacher, known.get(source))


def _cycle(name: str, known: Mapping[str, TeacherConfig]) -> Iterator[Problem]:
    """The circle of readers that a teacher is in, told once: at the teacher of the circle that is named first."""
    way = circle(name, lambda one: filter(None, [read_pool(known[one])]) if one in known else ())
    if way and name == min(way, key=list(known).index):
        what = f"{' reads '.join(way)}: none of them could begin"
        yield Problem(f"teachers[{name}].reads", what, "break the circle")


def _not_reading(teacher: Reader) -> Iterator[Problem]:
    fields = type(teacher).model_fields
    changed = [name for name in HOW_TO_READ if name in fields and getattr(teacher, name) != fields[name].default]
    if changed:
        what = f"{', '.join(changed)} say how it reads, but it reads nothing"
        yield Problem(f"teachers[{teacher.name}]", what, "name a teacher in `reads`, or remove them")
    if isinstance(teacher, AskedTeacher) and "{trace}" in teacher.chat.template:
        what = "contains {trace}, but it reads nothing"
        yield Problem(f"teachers[{teacher.name}].chat.template", what, "name a teacher in `reads`, or remove {trace}")


def _reading(teacher: Reader, source: TeacherConfig | None) -> Iterator[Problem]:
    where = f"teachers[{teacher.name}]"
    if teacher.part and source is not None and not source.reasoning_end:
        what = (
            f"the traces of {source.name!r} have no mark that parts reasoning and answer (its reasoning_end is empty)"
        )
        yield Problem(f"{where}.part", what, f"set reasoning_end of {source.name!r}, or remove part")
    if isinstance(teacher, RuleTeacher):
        if not (teacher.part or teacher.keep or teacher.replace):
            yield Problem(where, f"copies the traces of {teacher.reads!r}", "set part, keep or replace")
    elif isinstance(teacher, AskedTeacher) and teacher.continues is not None:
        yield from _continuing(teacher)
    elif isinstance(teacher, AskedTeacher):
        yield from _reading_in_prompt(teacher)


def _reading_in_prompt(teacher: AskedTeacher) -> Iterator[Problem]:
    where = f"teachers[{teacher.name}]"
    if "{trace}" not in teacher.chat.template:
        what = f"does not contain {{trace}}, so nothing of {teacher.reads!r} would be read"
        yield Problem(f"{where}.chat.template", what, "add {trace} where the trace belongs, or set continues")
    if any(example.trace is None for example in teacher.chat.examples):
        yield Problem(f"{where}.chat.examples", "an example shows no trace to read", "give each example its trace")
    if teacher.teach is not None:
        what = f"teach = {teacher.teach!r}, but its traces hold nothing that was read"
        yield Problem(f"{where}.teach", what, "remove teach, or set continues")


def _continuing(teacher: AskedTeacher) -> Iterator[Problem]:
    is_able = not isinstance(teacher, EndpointTeacher) or teacher.extra_body.get("continue_final_message") is True
    if not is_able:
        what = "an endpoint begins every answer anew: it cannot continue what was read"
        remedy = (
            "where its server can (vLLM, SGLang), set extra_body = { continue_final_message = true,"
            " add_generation_prompt = false }; else ask a model of this cluster, or let it read {trace}"
        )
        yield Problem(f"teachers[{teacher.name}].continues", what, remedy)
