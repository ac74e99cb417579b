"""`distill serve` from its start to its end, as a person or a script sees it: what it tells, what it survives, what it
leaves."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from cluster.leftovers import semaphores_of
from distill.core.run_dir import RunDir, Training
from serve.client import served_models
from tests.fixtures.paths import ROOT
from tests.fixtures.served_run import PROBLEM, make_served_run

pytestmark = pytest.mark.long

DEADLINE_S = 400.0
READY = "Ctrl-C stops the server"


class Server:
    """The command in a process whose parent ignores Ctrl-C, as a shell without job control does for `... &`."""

    def __init__(self, run_dir: RunDir, *options: str, temporary: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "TMPDIR": temporary}
        environment.pop("RAY_ADDRESS", None)
        self.out = Path(temporary).with_suffix(".out")
        command = [sys.executable, "-m", "distill", "serve", run_dir.uri, *options]
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with self.out.open("w") as out:
                self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        finally:
            signal.signal(signal.SIGINT, before)

    @property
    def text(self) -> str:
        """What it has printed, without line ends: the terminal's width breaks lines anywhere."""
        return " ".join(self.out.read_text().split())

    def wait_for(self, words: str, deadline_s: float = DEADLINE_S) -> None:
        """Until it has printed these words."""
        started = time.monotonic()
        while words not in self.text:
            assert self.process.poll() is None, self.text
            assert time.monotonic() - started < deadline_s, self.text
            time.sleep(0.5)

    @property
    def url(self) -> str:
        """The address that it prints, with /v1."""
        return self.text.partition("OpenAI-compatible API: ")[2].partition(";")[0]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_served_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def temporary() -> Iterator[str]:
    """A folder for temporary files with a short name: the paths of sockets may not be long."""
    with tempfile.TemporaryDirectory(prefix="sv-", dir="/tmp") as folder:
        yield folder


@pytest.fixture(scope="module")
def server(run_dir: RunDir, temporary: str) -> Iterator[Server]:
    started = Server(run_dir, "--port", "0", temporary=temporary)
    try:
        started.wait_for(READY)
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        started.out.unlink()


def ask(url: str, model: str, tokens: int) -> Any:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=DEADLINE_S)
    options: dict[str, Any] = {"temperature": 0.0, "seed": 0, "extra_body": {"ignore_eos": True}}
    turns: Any = [{"role": "user", "content": PROBLEM}]
    return client.chat.completions.create(model=model, messages=turns, max_tokens=tokens, **options)


def test_changed_weights_are_refused_before_ray_starts(run_dir: RunDir, temporary: str) -> None:
    file = run_dir.local_path(*Training("tiny@long").model, "model.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0xFF]))
    try:
        server = Server(run_dir, "--port", "0", temporary=temporary)
        assert server.process.wait(DEADLINE_S) == 2
    finally:
        file.write_bytes(whole)
    assert "model.safetensors has other content" in server.text and "train this cell again" in server.text
    assert "starting Ray" not in server.text and "Traceback" not in server.text


def test_it_tells_how_far_it_is_and_serves_students_of_equal_shapes_by_one_engine(server: Server) -> None:
    for words in (
        "one engine for tiny, tiny@short, tiny@long, whose weights take turns",
        "0 of 1 engine ready after",
        "asking each of 3 models once",
        "ready after",
    ):
        assert words in server.text
    answers = {model: ask(server.url, model, 16).choices[0].message.content for model in ("tiny", "tiny@long")}
    assert len(set(answers.values())) == 2, "each with its own weights"
    cards = served_models(server.url.removesuffix("/v1"))
    assert len({str(card["sha256"]) for name, card in cards.items() if "@" in name}) == 2


@pytest.mark.parametrize("spelling", ["{}", "{}/"])
def test_the_printed_address_is_one_that_ask_takes(server: Server, spelling: str) -> None:
    command = [sys.executable, "-m", "distill", "ask", "tiny", PROBLEM, "--max-tokens", "4"]
    done = subprocess.run([*command, "--url", spelling.format(server.url)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_chat_without_serve_answers_as_the_endpoint_does(server: Server, run_dir: RunDir) -> None:
    program = [sys.executable, "-m", "distill"]
    asked = [*program, "ask", "tiny@long", PROBLEM, "--max-tokens", "24", "--url", server.url]
    expected = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    command = [*program, "chat", run_dir.uri, "tiny@long", "--max-tokens", "24"]
    done = subprocess.run(command, input=f"{PROBLEM}\n/quit\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected.strip() and expected in done.stdout


def test_requests_wait_for_another_engine_where_its_process_dies_and_the_loss_is_told(server: Server) -> None:
    before = ask(server.url, "tiny@long", 8).choices[0].message.content
    with ThreadPoolExecutor(3) as pool:
        begun = pool.submit(ask, server.url, "tiny@long", 900)
        time.sleep(0.5)
        assert not begun.done()
        children = psutil.Process(server.process.pid).children(recursive=True)
        started = time.monotonic()
        next(child for child in children if "EngineCore" in " ".join(child.cmdline())).kill()
        later = [pool.submit(ask, server.url, "tiny@long", 8) for _ in range(2)]
        assert begun.result().usage.completion_tokens == 900, "nothing was sent of it yet: asked again"
        assert [answer.result().choices[0].message.content for answer in later] == [before] * 2
    print(f"\nanswered {time.monotonic() - started:.1f} s after the engine's process was killed")
    server.wait_for("is back after", 60.0)
    assert "the engine of tiny, tiny@short, tiny@long was lost; another is starting" in server.text


def test_ctrl_c_stops_it_and_nothing_is_left_behind(server: Server, temporary: str) -> None:
    # The last test: it stops the server.
    process = psutil.Process(server.process.pid)
    semaphores, children = semaphores_of(process), process.children(recursive=True)
    assert os.listdir(temporary), "its files are where they are looked for"
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(120.0) == 0, server.text
    psutil.wait_procs(children, timeout=30.0)
    assert [str(path) for path in semaphores if path.exists()] == []
    assert [str(file) for file in sorted(Path(temporary).rglob("*")) if not file.is_dir()] == []
