"""The page in a real browser, before a stand-in for the models behind the real door."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from serve.api.admission import AdmissionMiddleware, AdmissionSettings
from serve.api.playground import PAGE, PAGE_HEADERS
from serve.keys import Key, hash_key
from tests.fixtures.browser import CTRL, Page, open_page

MODELS = ("small", "small@short", "small@long", "small@mix-long")
MODES = {"small@long": {"modes": {"long": "Think.", "short": "Be brief."}}}
PROBLEM = {"id": "p1", "benchmark": "sums", "problem": "What is 3 + 4?"}
LONG_PROBLEM = {"id": "p2", "benchmark": "sums", "problem": "What is " + "3 + " * 30 + "4?"}
SLOW = "never ends"
EVIL = "<img src=x onerror=alert(1)>"
REASONING = "We add: $3 + 4 = 7$."
ANSWER = (
    r"So \(\frac{\sqrt{49}}{1}\) is $$\sum_{i=1}^{2} x_i^2 \le \begin{pmatrix}1&2\\3&4\end{pmatrix}$$ "
    r"costs $5 and $6, bad $\unknown{x}$: \boxed{\dfrac{7}{1}} " + EVIL
)


async def models(scope: Any, receive: Any, send: Any) -> None:
    """What the ingress answers, without engines; answers come in small pieces."""
    path, body = scope["path"], (await receive())["body"]
    cards = [{"id": name, "metadata": {"template": "{problem}"} | MODES.get(name, {})} for name in MODELS]
    if path == "/":
        await respond(send, PAGE.encode(), [*PAGE_HEADERS.items(), ("content-type", "text/html; charset=utf-8")])
    elif path == "/v1/models":
        await respond(send, json.dumps({"data": cards}))
    elif path == "/v1/problems":
        await respond(send, json.dumps({"data": [PROBLEM, LONG_PROBLEM]}))
    elif path == "/v1/verdict":
        is_right = "{7}" in json.loads(body)["completion"]
        await respond(send, json.dumps({"verdict": "CORRECT" if is_right else "NO_ANSWER", "expected": "7"}))
    else:
        await stream(send, json.loads(body))


async def respond(send: Any, body: bytes | str, headers: Any = (("content-type", "application/json"),)) -> None:
    data = body.encode() if isinstance(body, str) else body
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": 200, "headers": encoded})
    await send({"type": "http.response.body", "body": data})


async def stream(send: Any, asked: dict[str, Any]) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    await send(start)

    async def event(delta: dict[str, str], finish: str | None = None, **more: Any) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        data = json.dumps({"choices": [choice] if delta or finish else [], **more})
        await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
        await asyncio.sleep(0.01)

    if "mode" in asked:
        await event({"content": f"[asked to be {asked['mode']}] "})
    is_slow = SLOW in asked["messages"][-1]["content"]
    for index in range(0, len(REASONING), 5):
        await event({"reasoning_content": REASONING[index : index + 5]})
    while is_slow:
        await event({"content": "and "})
    if asked["model"] != "small":  # the untouched one says nothing after its reasoning
        for index in range(0, len(ANSWER), 7):
            await event({"content": ANSWER[index : index + 7]})
    await event({}, "stop")
    await event({}, usage={"prompt_tokens": 5, "completion_tokens": 42})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    yield from listen(())


def listen(keys: tuple[Key, ...]) -> Iterator[str]:
    settings = AdmissionSettings(engines=dict.fromkeys(MODELS, "e"), max_per_engine=8, keys=keys)
    server = uvicorn.Server(
        uvicorn.Config(AdmissionMiddleware(models, settings), port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        pass
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = server.force_exit = True
    thread.join(20)


def ask_by_keyboard(page: Page, question: str) -> None:
    page.run("document.getElementById('question').select(), document.getElementById('question').focus()")
    page.type(question)
    page.key("Enter", modifiers=CTRL)


def test_students_answer_side_by_side_with_tokens_time_verdict_and_mathematics(url: str, tmp_path: Path) -> None:
    with open_page(url, tmp_path / "profile") as page:
        page.wait("document.querySelectorAll('input[name=model]').length === 4")
        assert page.run("chosen()") == ["small@short", "small@long"], "trained students first"
        page.run("document.querySelector('input[value=small]').click()")
        assert page.run("document.querySelector('input[value=\"small@mix-long\"]').disabled"), "three at most"
        page.run("$('problem').value = 'p1', $('problem').dispatchEvent(new Event('change'))")
        assert page.run("$('question').value") == PROBLEM["problem"]
        page.run("$('question').focus()")
        page.key("Enter", modifiers=CTRL)
        page.wait("$('status').textContent === 'Done.'")
        columns = page.run("[...document.querySelectorAll('article')].map((a) => [a.dataset.model, a.innerText])")
        assert [model for model, _ in columns] == ["small", "small@short", "small@long"]
        assert all("42 tokens in" in text and "first token after" in text for _, text in columns)
        verdicts = page.run("[...document.querySelectorAll('.verdict')].map((v) => v.textContent)")
        assert verdicts == ["✗ no answer, expected 7", "✓ correct", "✓ correct"]
        answer = "document.querySelectorAll('article')[1].querySelector('.content')"
        assert page.run(f"{answer}.querySelectorAll('mfrac').length") == 2
        assert page.run(f"{answer}.querySelectorAll('msqrt, msubsup, mtable, .boxed').length") == 4
        assert page.run(f"{answer}.querySelector('code').textContent") == r"$\unknown{x}$", "shown as it is written"
        assert "costs $5 and $6" in page.run(f"{answer}.textContent"), "money is no formula"
        assert EVIL in page.run(f"{answer}.textContent") and page.run(f"{answer}.querySelector('img')") is None
        page.screenshot(Path(os.environ.get("PAGE_SCREENSHOT", tmp_path / "page.png")))
        assert page.complaints == [], "nothing refused by the policy, no uncaught error"
        sizes = page.run("[...document.querySelectorAll('mfrac')].map((m) => m.getBoundingClientRect().height > 10)")
        assert sizes and all(sizes), "fractions are drawn as fractions"


def test_a_narrow_window_needs_no_scrolling_to_the_side(url: str, tmp_path: Path) -> None:
    with open_page(url, tmp_path / "profile") as page:
        page.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
        page.wait("document.querySelectorAll('input[name=model]').length === 4")
        page.run("$('problem').value = 'p2', $('problem').dispatchEvent(new Event('change'))")
        ask_by_keyboard(page, "1 + 1?")
        page.wait("$('status').textContent === 'Done.'")
        assert page.run("document.documentElement.scrollWidth") <= 400


def test_escape_stops_an_answer_and_the_next_question_is_taken(url: str, tmp_path: Path) -> None:
    with open_page(url, tmp_path / "profile") as page:
        page.wait("document.querySelectorAll('input[name=model]').length === 4")
        ask_by_keyboard(page, SLOW)
        page.wait("document.querySelector('.content')?.textContent.includes('and and')")
        page.key("Escape")
        page.wait("$('status').textContent === 'Done.'")
        assert page.run("document.querySelector('.error:not(#status)').textContent") == "stopped"
        ask_by_keyboard(page, "1 + 1?")
        page.wait("$('status').textContent === 'Done.' && document.querySelectorAll('.boxed').length === 2")


def test_the_mode_is_chosen_for_students_that_know_it(url: str, tmp_path: Path) -> None:
    with open_page(url, tmp_path / "profile") as page:
        page.wait("document.querySelectorAll('input[name=model]').length === 4")
        assert page.run("[...$('mode').options].map((option) => option.value)") == ["long", "short"]
        page.run("$('mode').value = 'short'")
        ask_by_keyboard(page, "1 + 1?")
        page.wait("$('status').textContent === 'Done.'")
        said = page.run("[...document.querySelectorAll('.content')].map((content) => content.textContent)")
        assert ["asked to be" in text for text in said] == [False, True]
        assert "[asked to be short]" in said[1]


def test_a_page_that_needs_a_key_asks_for_it(tmp_path: Path) -> None:
    listening = listen((Key(name="a", sha256=hash_key("open sesame")),))
    try:
        with open_page(next(listening), tmp_path / "profile") as page:
            page.wait("!$('keyRow').hidden && document.activeElement === $('key')")
            page.type("open sesame")
            page.key("Enter")
            page.wait("document.querySelectorAll('input[name=model]').length === 4")
            ask_by_keyboard(page, "1 + 1?")
            page.wait("document.querySelectorAll('.boxed').length === 2")
    finally:
        next(listening, None)
