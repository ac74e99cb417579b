"""Runs the streaming job in a thread, shows its progress, and fails when no engine gives a sign of life."""

import re
import threading
from collections import Counter
from collections.abc import Callable
from queue import Empty, Queue
from typing import Any, NamedTuple

from distill.core.errors import InputError, StageError
from distill.generate.progress_actor import Snapshot

POLL_S = 0.5
TOLD = re.compile(r"\bdistill\.core\.errors\.(InputError|StageError|FullDiskError): (.+)")
"""An error with its remedy, in the text of the error as which Ray brings it from an actor."""


class Ended(NamedTuple):
    """How the job's thread ended."""

    error: BaseException | None


def watch(
    work: Callable[[], None], progress: Any, *, deadline_s: float, show: Callable[[Snapshot], None]
) -> Counter[str]:
    """Run a job in a thread and show its progress until it ends.

    Args:
        work: runs the job to its end.
        progress: handle of the `ProgressActor`.
        deadline_s: longest time without a sign of life from any engine, seconds.
        show: called with every snapshot.

    Returns:
        The counts of this session.

    Raises:
        InputError: the job failed by what the recipe names, as an endpoint that takes no key of ours.
        StageError: the job failed otherwise, no engine started in time, or all were lost and none came back. Traces on
            disk are kept.
    """
    import ray

    ends: Queue[Ended] = Queue()
    threading.Thread(target=_run_job, args=(work, ends), daemon=True).start()
    while True:
        try:
            ended = ends.get(timeout=POLL_S)
        except Empty:
            snapshot = ray.get(progress.snapshot.remote())
            show(snapshot)
            if snapshot.silent_s > deadline_s:
                raise StageError(_no_engine(snapshot, deadline_s)) from None
            continue
        snapshot = ray.get(progress.snapshot.remote())
        if ended.error is not None:
            raise _job_failure(ended.error, snapshot) from ended.error
        show(snapshot)
        return Counter(snapshot.counts) + Counter({"busy_ms": round(1000 * snapshot.busy_s)})


def _no_engine(snapshot: Snapshot, deadline_s: float) -> str:
    if not snapshot.engines and not snapshot.counts:
        return (
            f"generate: no engine was ready after {deadline_s:g} s -> see the run's log for what it waits for "
            "(weights, or GPUs that the cluster does not have); if starting is just slow, raise "
            "generate.startup_deadline_s"
        )
    return (
        f"generate: no engine has responded for {deadline_s:g} s (generate.startup_deadline_s): their nodes were lost "
        f"and not replaced -> {snapshot.counts.get('traces', 0)} traces of this attempt are on disk; add nodes, then "
        "run the same command to continue"
    )


def _run_job(work: Callable[[], None], ends: "Queue[Ended]") -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - not swallowed: `watch` raises it in the main thread
        ends.put(Ended(error))
    else:
        ends.put(Ended(None))


def _job_failure(error: BaseException, snapshot: Snapshot) -> BaseException:
    """The error to raise for one that ended the job: a bug stays what it is."""
    from ray.exceptions import RayError

    kept = f"{snapshot.counts.get('traces', 0)} traces of this attempt are on disk"
    if told := TOLD.findall(str(error)):
        kind, text = told[-1]
        return (InputError if kind == InputError.__name__ else StageError)(f"generate: {text}\n  ({kept})")
    if not isinstance(error, RayError | RuntimeError | ValueError | OSError):
        return error
    return StageError(
        f"generate: a teacher's engine failed: {root_cause(str(error))}\n"
        f"  -> {kept}; correct the teacher's engine settings if they are named above, then run the same command to "
        "continue"
    )


def root_cause(message: str) -> str:
    """The line of a remote traceback that names the error."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"(Value error|[\w.]*(Error|Exception)\b)", line)]
    return (causes[-1] if causes else lines[-1] if lines else "no message")[:500]


def describe(snapshot: Snapshot) -> str:
    """The text beside the progress bar."""
    if not snapshot.engines:
        return "the engines are starting"
    counts = snapshot.counts
    parts = [f"{counts.get('traces', 0)} traces", f"{counts.get('tokens', 0)} tokens"]
    parts += [f"{name} +{number}" for name, number in sorted(counts.items()) if name.startswith("solved ")]
    parts += [f"{counts['failed']} failed"] if counts.get("failed") else []
    if 0 < snapshot.busy_engines < snapshot.engines:
        parts += [f"{snapshot.busy_engines} of {snapshot.engines} engines busy"]
    return ", ".join(parts)
