"""In which order teachers are asked, and which of them together. Pure; the forecast follows it too."""

from collections.abc import Mapping, Sequence

from distill.config.teachers import AskedTeacher, TeacherConfig, read_pool


def asking_order(teachers: Sequence[TeacherConfig], engines: Mapping[str, str]) -> list[list[str]]:
    """The pools by name, in the groups in which they are asked: each group by one engine that is started once.

    A pool comes after the one that it reads. Beyond that the cheapest pool decides which engine comes next; among
    equally cheap ones an engine that can fill all of its pools goes first, so that it need not be started again.

    Args:
        teachers: of the recipe, without circles of readers.
        engines: teacher -> its engine (`engine_key`); two styles of one model need one engine, not two.
    """
    waiting = sorted(teachers, key=price)
    groups: list[list[str]] = []
    done: set[str] = set()
    while waiting:
        by_engine: dict[str, list[TeacherConfig]] = {}
        for teacher in waiting:
            by_engine.setdefault(engines[teacher.name], []).append(teacher)
        ready = {engine: _ready(members, done) for engine, members in by_engine.items()}
        able = [engine for engine in by_engine if ready[engine]]
        if not able:
            raise AssertionError("a circle of readers, or one of a pool that is not among the teachers")
        engine = min(able, key=lambda one: (min(map(price, ready[one])), len(ready[one]) < len(by_engine[one])))
        groups.append([teacher.name for teacher in ready[engine]])
        done.update(groups[-1])
        waiting = [teacher for teacher in waiting if teacher.name not in done]
    return groups


def _ready(members: Sequence[TeacherConfig], done: set[str]) -> list[TeacherConfig]:
    """Those that can be asked one after the other: a reader follows what it reads."""
    ready: list[TeacherConfig] = []
    names = set(done)
    left = list(members)
    while found := next((one for one in left if read_pool(one) in (None, *names)), None):
        ready.append(found)
        names.add(found.name)
        left.remove(found)
    return ready


def price(teacher: TeacherConfig) -> float:
    """Of a million completion tokens, US dollars; a data set and a rule cost nothing."""
    return teacher.usd_per_million_tokens if isinstance(teacher, AskedTeacher) else 0.0
