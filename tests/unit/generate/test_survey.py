"""Which prompts are open."""

from pathlib import Path

from distill.core.run_dir import RunDir
from distill.generate.ask_policy import PoolState
from distill.generate.chunks import CHUNK_ROWS
from distill.generate.pool_index import decode_states
from distill.generate.survey import survey_prompts
from tests.fixtures.teacher_jobs import LocalHandle, answers, ask, job, pool, prompt, write_prompts


def test_a_survey_returns_the_chunks_with_an_open_prompt_and_their_states(tmp_path: Path) -> None:
    pools, run_dir = [pool("a", num_samples=1)], RunDir(str(tmp_path))
    write_prompts(run_dir, 3 * CHUNK_ROWS)
    work = job(tmp_path, pools, LocalHandle())
    done = [prompt(number) for number in (*range(CHUNK_ROWS), CHUNK_ROWS)]
    ask(work, answers(lambda request, problem: problem.split()[0]), done)
    survey = survey_prompts(run_dir, pools, work.plan, {"a"})
    assert (survey.num_open, survey.num_complete) == (2 * CHUNK_ROWS - 1, CHUNK_ROWS + 1)
    first, second = survey.open_chunks
    assert (first.start, first.stop, second.start, second.states) == (CHUNK_ROWS, 2 * CHUNK_ROWS, 2 * CHUNK_ROWS, ())
    assert decode_states(first.states[0]) == {"a": PoolState(frozenset({0}), 1)}
    assert not decode_states(first.states[1])["a"].done
