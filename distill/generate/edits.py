"""Edits: what a teacher that reads gets of another pool's trace, and which of its traces count. Pure.

An edit's identity follows from the trace that it was made from, so edits of a trace that is gone count no more, and
those of a new one are asked for, whatever else is on disk.
"""

import re
from typing import Any

from distill.config.teachers import AskedTeacher, Reader, RuleTeacher, TeacherConfig
from distill.core.schema import Style, Verdict, is_teachable
from distill.generate.pools import split_reasoning
from serve.api.reasoning_parser import opening_delimiter, opening_line
from serve.api.word_ends import word_end

SOURCE_MISSING = "source missing"
"""The trace that was read is gone, or is none any more that its reader takes."""
PART_MISSING = "part missing"
"""The trace holds no such part, so it is not read at all."""
CUT = "cut by the token limit"
NOT_SHORTER = "not shorter than its source"
ANSWER_CHANGED = "answer changed"
STILL_WRONG = "still wrong"
NO_ANSWER_MARKED = "no answer marked"
NOT_GRADABLE = "could not be graded"
KEPT = "kept"


def read_of(teacher: Reader, completion: str, reasoning_end: str) -> str:
    """What a teacher reads of a trace; empty where the trace has no such part.

    Args:
        teacher: that reads.
        completion: the whole trace.
        reasoning_end: of the teacher that wrote it.
    """
    is_parted = bool(reasoning_end) and reasoning_end in completion
    reasoning, answer = split_reasoning(completion, reasoning_end)
    # Of a trace that was cut inside its thinking all is thought: its reader opens the thinking itself.
    thought = (reasoning if is_parted else completion).strip().removeprefix(opening_delimiter(reasoning_end))
    if teacher.part is not None:
        text = (thought if teacher.part == "reasoning" else answer) if is_parted else ""
    elif isinstance(teacher, AskedTeacher) and teacher.continues is not None:
        text = thought
    else:
        text = completion
    return first_part(text.strip(), teacher.keep or 1.0)


def first_part(text: str, share: float) -> str:
    """The first share of a text's characters, up to the end of a word."""
    return text[: word_end(text, round(len(text) * share))].rstrip()


def rewritten(teacher: RuleTeacher, text: str) -> str:
    """A text after all of a rule teacher's replacements, without white space around it."""
    for one in teacher.replace:
        text = re.sub(one.pattern, one.by, text)
    return text.strip()


def begun_answer(teacher: AskedTeacher, read: str, *, opens: bool) -> str:
    """How the answer of a teacher that continues begins: what was read, then the cue.

    Args:
        teacher: that continues.
        read: of `read_of`.
        opens: the teacher thinks, and its prompt has not opened the thinking: that is opened first.
    """
    assert teacher.continues is not None
    gap = "" if teacher.continues[0].isspace() else "\n\n"
    opening = opening_line(teacher.reasoning_end) if opens and teacher.style == Style.LONG else ""
    return f"{opening}{read}{gap}{teacher.continues}"


def graded_text(completion: str, given: int, reasoning_end: str) -> str:
    """What of a trace is graded: the answer of a teacher that continued has to stand in what it wrote itself.

    Args:
        completion: the whole trace.
        given: characters at its beginning that its teacher continued.
        reasoning_end: of its teacher.
    """
    opening = opening_line(reasoning_end) if given and reasoning_end else ""
    is_inside = bool(opening) and completion.startswith(opening.strip())
    return (opening if is_inside else "") + completion[given:]


def keep_if_of(teacher: TeacherConfig) -> str | None:
    """`keep_if` of a teacher that reads; None of any other."""
    return teacher.keep_if if isinstance(teacher, Reader) else None


def growth_of(completion: str, source: str) -> float:
    """Length of an edit over that of its source, in characters: their teachers count tokens differently."""
    return len(completion) / max(1, len(source))


def is_kept(growth: float, keep_if: str | None) -> bool:
    """Whether an edit has the length that its teacher's `keep_if` asks for."""
    return keep_if != "shorter" or growth < 1.0


def may_be_used(trace: Any, keep_if: str | None) -> bool:
    """Whether a mix may use a trace, an edit or not."""
    return is_teachable(trace.verdict, trace.finish_reason) and is_kept(trace.growth, keep_if)


def edit_outcome(verdict: str, drop: str, *, was_correct: bool) -> str:
    """Why an edit is not used, or `KEPT`.

    Args:
        verdict: on the edit.
        drop: why it is not used whatever its verdict (`SOURCE_MISSING`, `CUT`, `NOT_SHORTER`), or empty.
        was_correct: what it was made from was correct.
    """
    if drop == SOURCE_MISSING:
        return drop
    match verdict:
        case Verdict.NO_ANSWER:
            return NO_ANSWER_MARKED
        case Verdict.INCORRECT:
            return ANSWER_CHANGED if was_correct else STILL_WRONG
        case Verdict.ERROR:
            return NOT_GRADABLE
    return drop or KEPT
