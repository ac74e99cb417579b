"""Hosts that vanish, are cut off or have a poor link, at random moments: nothing is lost and nothing is done twice.

Hosts are network namespaces with Ray nodes of their own (`tests.fixtures.hosts`). `NODES_SEED` draws other moments.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.train.attempts import read_attempts
from distill.train.cells import all_cells
from distill.train.worker.metrics import read_metrics
from serve.config import APP, ENGINE_PREFIX, ServeConfig
from serve.keys import Key, hash_key
from tests.fixtures.disturb import SEED, Disturber, start_driver, three_hosts, wait_for_new_files
from tests.fixtures.hosts import Lan, can_make_hosts
from tests.fixtures.teacher_run import SHARDS, rows_on_disk, traces_on_disk, write_recipe
from tests.fixtures.tiny_models import make_tiny_model
from tests.fixtures.train_run import train_recipe, write_mixes

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not can_make_hosts(), reason="network namespaces need root and `ip`"),
]

NUM_FAULTS, NUM_SERVE_FAULTS = 6, 4
NUM_PROMPTS, NUM_SAMPLES = 10_000, 1
NUM_STEPS, CHECKPOINT_STEPS = 1200, 50


@pytest.fixture
def net() -> Iterator[Lan]:
    """A head and two workers."""
    with three_hosts() as made:
        yield made


# Generation


@pytest.fixture
def roomy_net() -> Iterator[Lan]:
    """The same with a CPU beside the engine of each worker, for the small tasks that read prompts."""
    with three_hosts(worker_cpus=2) as made:
        yield made


def test_teachers_lose_no_trace_and_write_none_twice_when_hosts_die_and_links_fail(
    roomy_net: Lan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = write_recipe(
        tmp_path, num_prompts=NUM_PROMPTS, num_samples=NUM_SAMPLES, is_taught=False, engines=2, max_tokens=100
    )
    net, run = roomy_net, tmp_path / "run"
    lot, started = Disturber(net, "ray::MapWorker"), time.monotonic()
    seen: dict[str, dict[str, Any]] = {}
    driver = start_driver(net, "generate_only", teacher, run)
    while lot.num_faults < NUM_FAULTS and wait_for_new_files(driver, run, SHARDS, net):
        time.sleep(5 * lot.draw.random())
        seen |= {name: row for name, row in traces_on_disk(run).items() if name not in seen}
        lot.disturb()
    assert driver.wait(timeout=1800) == 0, net.head.log("driver.log")[-3000:]
    took = time.monotonic() - started
    final, rows = traces_on_disk(run), rows_on_disk(run)
    undisturbed = tmp_path / "undisturbed"
    assert start_driver(net, "generate_only", teacher, undisturbed).wait(timeout=1800) == 0
    reference = traces_on_disk(undisturbed)
    lost, again = reference.keys() - final.keys(), [name for name, row in seen.items() if final.get(name) != row]
    same = sum(final[name]["completion"] == row["completion"] for name, row in reference.items() if name in final)
    with capsys.disabled():
        print(f"\nseed {SEED}: {dict(lot.counts)}; {took:.0f} s; traces {len(final)} of {len(reference)}, ", end="")
        print(f"lost {len(lost)}, rows repeated {len(rows) - len(final)}, ", end="")
        print(f"written again {len(again)} of {len(seen)} seen, same text {same}")
    assert lot.num_faults == NUM_FAULTS, "it ended before all faults: more prompts"
    assert not lost and len(final) == NUM_PROMPTS * NUM_SAMPLES
    assert not again, "a trace that was on disk was lost or written again"
    assert len(rows) == len(final), "a trace stands on disk twice"


# Training


def small_fleet(folder: Path) -> Recipe:
    """Two students on two mixes, of some ten seconds of steps each."""
    full = train_recipe(folder)
    train = {"num_steps": NUM_STEPS, "num_tokens": 150 * NUM_STEPS, "checkpoint_every_steps": CHECKPOINT_STEPS}
    return full.model_copy(
        update={
            "mixes": full.mixes[:2],
            "merges": (),
            "train": full.train.model_copy(update={**train, "max_failures": 20}),
        }
    )


def curve(run: Path, cell: str) -> list[tuple[int, float, float]]:
    return [(line.step, line.loss, line.lr) for line in read_metrics(RunDir(str(run)), cell)]


def test_cells_resume_from_their_last_checkpoints_on_the_same_curve_when_hosts_die_and_links_fail(
    net: Lan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, path, started = small_fleet(tmp_path), tmp_path / "recipe.json", time.monotonic()
    path.write_text(fleet.model_dump_json())
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    lot = Disturber(net, "ray::RayTrainWorker")
    for folder in (run, undisturbed):
        write_mixes(RunDir(str(folder)))
    driver = start_driver(net, "train_only", path, run)
    while wait_for_new_files(driver, run, "train/*/checkpoints/*/complete.json", net) and lot.num_faults < NUM_FAULTS:
        time.sleep(lot.draw.random())
        lot.disturb()
    assert driver.wait(timeout=1800) == 0, net.head.log("driver.log")[-3000:]
    took = time.monotonic() - started
    assert start_driver(net, "train_only", path, undisturbed).wait(timeout=900) == 0
    cells = [cell.name for cell in all_cells(fleet)]
    attempts = {cell: read_attempts(RunDir(str(run)), cell) for cell in cells}
    again = [(one.first_step, cell) for cell in cells for one in attempts[cell][1:]]
    with capsys.disabled():
        print(f"\nseed {SEED}: {dict(lot.counts)}; {took:.0f} s; {len(again)} continued: {again}")
        print({cell: [(one.host, one.first_step, one.outcome) for one in attempts[cell]] for cell in cells})
    assert lot.num_faults > 0 and again, "nothing was disturbed"
    for cell in cells:
        assert attempts[cell][-1].outcome == "done"
        assert curve(run, cell) == curve(undisturbed, cell), f"{cell}: a step is missing, repeated or another one"
        assert RunDir(str(run)).read_manifest("train", cell) is not None
    assert all(step % CHECKPOINT_STEPS == 0 for step, _ in again)


# Serving

SECRET, MODEL, PORT = "sk-nodes", "tiny@mix", 8000
NOTICED_S = 20.0
QUESTION: Any = [{"role": "user", "content": "What is 3 + 4?"}]
SETTINGS = ServeConfig(
    host="0.0.0.0", port=PORT, keys=(Key(name="all", sha256=hash_key(SECRET)),),
    max_model_len=1024, max_num_seqs=4, max_ongoing_requests=8, kv_cache_gib=0.1,
    cpus_per_engine=1.0, cpu_threads=1, min_replicas=2, max_replicas=2,
)  # fmt: skip


class Clients:
    """Some that ask for whole answers and one that reads streams, without a pause; they notice every failure."""

    def __init__(self, url: str) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=SECRET, max_retries=0, timeout=300.0)
        self.answers: Counter[str] = Counter()
        self.failed: list[str] = []
        self.cut_streams: list[str] = []
        self.slowest_s = 0.0
        self._stopped = threading.Event()

    def ask_on(self, stream: bool) -> None:
        """Until `stop`."""
        while not self._stopped.is_set():
            started = time.monotonic()
            try:
                self.answers[self._streamed() if stream else self._whole()] += 1
            except openai.APIError as error:
                self.failed.append(f"{time.monotonic() - started:.1f} s: {error!r}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    def stop(self) -> None:
        self._stopped.set()

    def _ask(self, **options: Any) -> Any:
        return self.client.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=100, temperature=0.0, seed=0, **options
        )

    def _whole(self) -> str:
        return str(self._ask().choices[0].message.content)

    def _streamed(self) -> str:
        text = ""
        try:
            for chunk in self._ask(stream=True):
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        except openai.APIError as error:
            if not text:
                raise
            self.cut_streams.append(repr(error))
            return "cut"
        return text


def test_requests_survive_the_death_of_the_replicas_hosts_and_replicas_are_moved(
    net: Lan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, lot = make_tiny_model(tmp_path / "model", seed=1), Disturber(net, f"ray::ServeReplica:{APP}:{ENGINE_PREFIX}")
    driver, started = start_driver(net, "serve_only", MODEL, model, SETTINGS.model_dump_json()), time.monotonic()
    while "served at" not in net.head.log("driver.log"):
        assert driver.poll() is None and time.monotonic() - started < 400, net.head.log("driver.log")[-3000:]
        time.sleep(0.5)
    clients, started = Clients(f"http://{net.head.address}:{PORT}"), time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(clients.ask_on, stream) for stream in (True, False, False, False)]
        try:
            while lot.num_faults < NUM_SERVE_FAULTS:
                wait_for_answers(clients)
                time.sleep(5 * lot.draw.random())
                lot.disturb()
            both_after_s = wait_for_replicas(net)
            wait_for_answers(clients)
        finally:
            clients.stop()
        for one in asking:
            one.result()
    with capsys.disabled():
        print(f"\nseed {SEED}: {dict(lot.counts)}; {time.monotonic() - started:.0f} s; ", end="")
        print(
            f"{clients.answers.total()} answers, slowest {clients.slowest_s:.1f} s, failed {clients.failed}, ", end=""
        )
        print(f"streams cut {clients.cut_streams}, both replicas run {both_after_s:.0f} s after the last fault")
    assert clients.failed == []
    assert len({text for text in clients.answers if text != "cut"}) == 1, "every replica answers the same"
    assert len([host for host in net.workers if host.runs(lot.works)]) == 2, "both replicas are on live hosts"


def wait_for_replicas(net: Lan) -> float:
    """Until Serve says that both run, and has had the time to notice that one does not; seconds."""
    started = time.monotonic()
    time.sleep(NOTICED_S)
    while replicas_told(net)[-1:] != ["replicas that run: 2"]:
        assert time.monotonic() - started < 300, replicas_told(net)
        time.sleep(0.5)
    return time.monotonic() - started


def replicas_told(net: Lan) -> list[str]:
    return [line for line in net.head.log("driver.log").splitlines() if line.startswith("replicas that run: ")]


def wait_for_answers(clients: Clients, count: int = 40) -> None:
    """Until so many more have come."""
    wanted, deadline = clients.answers.total() + count, time.monotonic() + 300
    while clients.answers.total() < wanted:
        assert time.monotonic() < deadline, f"no answers any more; failed: {clients.failed}"
        time.sleep(0.2)
