"""The page in a real browser, before a stand-in for the models behind the real door."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from serve.api.admission import ALLOWED_MODELS, AdmissionMiddleware, AdmissionSettings
from serve.api.http_errors import APIError
from serve.api.playground import PAGE, PAGE_HEADERS
from serve.keys import Key, hash_key
from tests.fixtures.browser import CTRL, Page, open_page

MODELS = ("small", "small@short", "small@long", "small@mix-long")
SHOWN = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "four"}]
CARDS: dict[str, dict[str, Any]] = {
    "small": {"accuracy:sums": 0.125, "system": "Be brief.", "template": "Solve: {problem}"},
    "small@short": {"accuracy:sums": 0.5, "weights": "0123456789abcdef"},
    "small@long": {
        "modes": {"long": "Think.", "short": "Be brief."},
        "accuracy:sums:long": 0.75,
        "accuracy:sums:short": 0.625,
        "reasoning_end": "</think>",
    },
    "small@mix-long": {"examples": SHOWN, "system": "", "template": "{problem} Now: {problem}"},
}
PROBLEM = {"id": "p1", "benchmark": "sums", "problem": "What is 3 + 4?"}
LONG_PROBLEM = {"id": "p2", "benchmark": "sums", "problem": "What is " + "3 + " * 30 + "4?"}
SLOW, PONDER, BUSY = "never ends", "ponder", "busy"
EVIL = "<img src=x onerror=alert(1)>"
REASONING = "We add: $3 + 4 = 7$."
ANSWER = (
    r"So \(\frac{\sqrt{49}}{1}\) is $$\sum_{i=1}^{2} x_i^2 \le \begin{pmatrix}1&2\\3&4\end{pmatrix}$$ "
    r"costs $5 and $6, bad $\unknown{x}$: \boxed{\dfrac{7}{1}} " + EVIL
)

USAGE = {"prompt_tokens": 5, "completion_tokens": 42, "completion_tokens_details": {"reasoning_tokens": 12}}

READY = "document.querySelectorAll('#list input').length === 4"
ANSWERED = "!running && turns.length"
LAST = "turns[turns.length - 1].answers"

requests: list[dict[str, Any]] = []
"""The bodies of all questions, oldest first."""


async def models(scope: Any, receive: Any, send: Any) -> None:
    """What the ingress answers, without engines; answers come in small pieces."""
    path, body = scope["path"], (await receive())["body"]
    allowed = scope["state"][ALLOWED_MODELS] or MODELS
    cards = [{"id": name, "metadata": {"template": "{problem}"} | CARDS.get(name, {})} for name in allowed]
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
        requests.append(json.loads(body))
        await stream(send, requests[-1], asyncio.ensure_future(receive()))


async def respond(send: Any, body: bytes | str, headers: Any = (("content-type", "application/json"),)) -> None:
    data = body.encode() if isinstance(body, str) else body
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": 200, "headers": encoded})
    await send({"type": "http.response.body", "body": data})


async def stream(send: Any, asked: dict[str, Any], disconnected: asyncio.Future[Any]) -> None:
    question = asked["messages"][-1]["content"]
    if BUSY in question:
        raise APIError(503, "the model is busy or starting")
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    await send(start)

    async def event(delta: dict[str, str], finish: str | None = None, **more: Any) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        data = json.dumps({"choices": [choice] if delta or finish else [], **more})
        await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
        await asyncio.sleep(0.01)

    for index in range(0, len(REASONING), 5):
        await event({"reasoning_content": REASONING[index : index + 5]})
    while PONDER in question and not disconnected.done():
        await event({"reasoning_content": "\nonce more"})
    while SLOW in question and not disconnected.done():
        await event({"content": "and "})
    if asked["model"] != "small":  # the untouched one says nothing after its reasoning
        for index in range(0, len(ANSWER), 7):
            await event({"content": ANSWER[index : index + 7]})
    await event({}, "stop")
    await event({}, usage=USAGE)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listen(()) as address:
        yield address


@contextmanager
def listen(keys: tuple[Key, ...]) -> Iterator[str]:
    settings = AdmissionSettings(engines=dict.fromkeys(MODELS, "e"), max_per_engine=32, keys=keys)
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


@pytest.fixture
def page(url: str, tmp_path: Path) -> Iterator[Page]:
    with open_page(url, tmp_path / "profile") as opened:
        opened.wait(READY)
        requests.clear()
        yield opened


def ask(page: Page, question: str) -> None:
    page.run("$('question').select(), $('question').focus()")
    page.type(question)
    page.key("Enter", modifiers=CTRL)


def choose(page: Page, *names: str) -> None:
    boxes = "[...document.querySelectorAll('#list input')]"
    page.run(f"{boxes}.filter((box) => box.checked).forEach((box) => box.click())")
    page.run(f"{boxes}.filter((box) => {json.dumps(names)}.includes(box.value)).forEach((box) => box.click())")
    assert page.run("chosen()") == list(names)


def narrow(page: Page, width: int) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)


def test_students_answer_side_by_side_with_tokens_time_verdict_and_mathematics(page: Page, tmp_path: Path) -> None:
    assert page.run("chosen()") == ["small@short", "small@long"], "trained students first"
    page.run("document.querySelector('input[value=small]').click()")
    assert page.run("document.querySelector('input[value=\"small@mix-long\"]').disabled"), "three at most"
    page.run("$('problem').value = 'p1', $('problem').dispatchEvent(new Event('change'))")
    assert page.run("$('question').value") == PROBLEM["problem"]
    page.run("$('question').focus()")
    page.key("Enter", modifiers=CTRL)
    page.wait(ANSWERED)
    columns = page.run("[...document.querySelectorAll('article')].map((a) => [a.dataset.model, a.innerText])")
    assert [model for model, _ in columns] == ["small", "small@short", "small@long"]
    assert all("42 tokens, 12 of them reasoning, in" in text and "the first after" in text for _, text in columns)
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


def test_a_narrow_window_needs_no_scrolling_to_the_side(page: Page) -> None:
    narrow(page, 320)
    page.run("$('options').open = true, $('problem').value = 'p2', $('problem').dispatchEvent(new Event('change'))")
    ask(page, "1 + 1?")
    page.wait(ANSWERED)
    assert page.run("document.documentElement.scrollWidth") <= 320


def test_escape_stops_an_answer_and_the_next_question_is_taken(page: Page) -> None:
    ask(page, SLOW)
    page.wait("document.querySelector('.content')?.textContent.includes('and and')")
    page.key("Escape")
    page.wait(ANSWERED)
    assert page.run("$('status').textContent") == "all stopped"
    assert page.run("document.querySelectorAll('.stopped').length") == 2
    assert page.run("document.querySelector('.bad')") is None, "stopping is no error"
    ask(page, "1 + 1?")
    page.wait("!running && document.querySelectorAll('.boxed').length === 2")


def test_the_mode_is_chosen_for_students_that_know_it_and_shown(page: Page) -> None:
    assert page.run("[...$('mode').options].map((option) => option.value)") == ["long", "short"]
    page.run("$('mode').value = 'short'")
    ask(page, "1 + 1?")
    page.wait(ANSWERED)
    assert {one["model"]: one.get("mode") for one in requests} == {"small@short": None, "small@long": "short"}
    texts = page.run("[...document.querySelectorAll('article')].map((a) => a.innerText)")
    assert ["mode short" in text for text in texts] == [False, True]
    assert "sums (short) 62.5 %" in texts[1] and "(long)" not in texts[1], "the score in that mode"


def test_worked_examples_begin_a_conversation_and_are_told_of(page: Page) -> None:
    choose(page, "small@mix-long")
    for question in ("3?", "4?"):
        ask(page, question)
        page.wait(ANSWERED)
    before = [{"role": "system", "content": ""}, *SHOWN, {"role": "user", "content": "3? Now: 3?"}]
    answered = {"role": "assistant", "content": ANSWER}
    assert [one["messages"] for one in requests] == [before, [*before, answered, {"role": "user", "content": "4?"}]]
    texts = page.run("[...document.querySelectorAll('article')].map((a) => a.innerText)")
    assert all("asked after 1 worked example" in text for text in texts)
    assert "four" not in page.run("document.body.innerText")
    page.run("$('fresh').click()")
    ask(page, "5?")
    page.wait(ANSWERED)
    assert len(requests[-1]["messages"]) == len(before)


def test_a_page_that_needs_a_key_asks_for_it_and_offers_its_models(tmp_path: Path) -> None:
    key = Key(name="a", sha256=hash_key("open-sesame"), models=("small", "small@short"))
    with listen((key,)) as url, open_page(url, tmp_path / "profile") as page:
        page.wait("!$('keyForm').hidden && document.activeElement === $('key')")
        assert page.run("$('status').textContent") == "this endpoint asks for an API key"
        assert page.run("$('students').hidden"), "nothing to choose from yet"
        page.type("wrong")
        page.key("Enter")
        page.wait("$('status').textContent === 'this API key is not accepted'")
        page.run("$('key').select()")
        page.type("open-sesame")
        page.key("Enter")
        page.wait("document.querySelectorAll('#list input').length === 2 && document.activeElement === $('question')")
        ask(page, "1 + 1?")
        page.wait("document.querySelectorAll('.boxed').length === 1")


@pytest.mark.long
def test_each_student_goes_on_from_its_own_answers_until_the_user_starts_over(page: Page) -> None:
    choose(page, "small", "small@short")
    ask(page, "first")
    page.wait(ANSWERED)
    ask(page, SLOW)
    page.wait(f"{LAST}.every((answer) => answer.reasoning)")
    page.key("Escape")
    page.wait(ANSWERED)
    choose(page, "small", "small@short", "small@long")
    ask(page, "second")
    page.wait(ANSWERED)
    sent = {one["model"]: one["messages"] for one in requests}
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Solve: first"}]
    assert sent["small"] == [*first, {"role": "assistant", "content": ""}, {"role": "user", "content": "second"}]
    assert [turn["content"] for turn in sent["small@short"]] == ["first", ANSWER, "second"], "without the stopped one"
    assert [turn["content"] for turn in sent["small@long"]] == ["second"], "it was not asked before"
    assert page.run("document.querySelectorAll('.turn').length") == 3
    page.run("$('fresh').click()")
    assert page.run("document.querySelectorAll('.turn').length") == 0
    ask(page, "third")
    page.wait(ANSWERED)
    assert {len(one["messages"]) for one in requests[-3:]} == {1, 2}


@pytest.mark.long
def test_names_are_explained_with_scores_modes_and_weights(page: Page) -> None:
    facts = page.run("[...document.querySelectorAll('#list li > div')].map((fact) => fact.textContent)")
    assert facts == [
        "untouched · sums 12.5 %",
        "trained, arm short · sums 50.0 % · weights 0123456789ab",
        "trained, arm long · sums (long) 75.0 % · sums (short) 62.5 % · modes long, short",
        "trained, arm mix-long · asked after 1 worked example",
    ]


@pytest.mark.long
def test_what_no_chosen_student_knows_is_not_offered(page: Page) -> None:
    shown = "['modeRow', 'budgetRow'].filter((id) => !$(id).hidden).map((id) => $(id).innerText)"
    assert [" ".join(text.split()) for text in page.run(shown)] == [
        "Mode, for small@long long short",
        "Thinking budget in tokens, for small@long",
    ]
    page.run("$('budget').value = 20")
    ask(page, "1 + 1?")
    page.wait(ANSWERED)
    assert {one["model"]: one.get("thinking_budget") for one in requests} == {"small@short": None, "small@long": 20}
    page.run("$('budget').value = -1")
    choose(page, "small", "small@short")
    assert page.run(shown) == []
    ask(page, "2 + 2?")
    page.wait("!running && turns.length === 2")
    assert all("thinking_budget" not in one for one in requests[-2:]), "what is not offered is neither sent nor checked"


@pytest.mark.long
def test_a_problem_is_chosen_as_long_as_the_question_is_its_text(page: Page) -> None:
    page.run("$('problem').value = 'p1', $('problem').dispatchEvent(new Event('change'))")
    page.run("$('question').focus(), $('question').setSelectionRange(99, 99)")
    page.type("!")
    assert page.run("$('problem').value") == ""
    page.run("$('question').select()")
    page.type(PROBLEM["problem"])
    assert page.run("$('problem').value") == "p1"
    page.run("$('problem').value = '', $('problem').dispatchEvent(new Event('change'))")
    assert page.run("$('question').value") == ""
    page.run("load()")
    page.wait("$('problem').options.length === 3", timeout_s=5)


@pytest.mark.long
def test_the_reasoning_is_followed_unless_its_reader_has_scrolled_up(page: Page) -> None:
    choose(page, "small@long")
    ask(page, PONDER)
    box = "document.querySelector('.reasoning')"
    page.wait(f"{box} && {box}.scrollHeight > {box}.clientHeight + 100")
    page.wait(f"{box}.scrollTop + {box}.clientHeight >= {box}.scrollHeight - 40")
    assert "being written" in page.run("document.querySelector('summary.dim').textContent")
    assert page.run("document.querySelector('article').ariaBusy") == "true"
    page.run(f"{box}.scrollTop = 5")
    height = page.run(f"{box}.scrollHeight")
    page.wait(f"{box}.scrollHeight > {height} + 100")
    assert page.run(f"{box}.scrollTop") == 5
    page.key("Escape")
    page.wait(ANSWERED)
    assert page.run("document.querySelector('summary.dim').textContent") == "Reasoning"


@pytest.mark.long
def test_a_refusal_is_told_once_and_the_question_comes_back(page: Page) -> None:
    ask(page, BUSY)
    page.wait(ANSWERED)
    assert (
        page.run("[...document.querySelectorAll('.error')].map((e) => e.textContent)")
        == ["the model is busy or starting"] * 2
    )
    assert page.run("$('status').textContent") == "all failed: the model is busy or starting"
    assert page.run("$('question').value") == BUSY
    assert page.run("[...document.querySelectorAll('.facts')].map((f) => f.textContent)") == ["", ""]
    page.run("document.querySelector('.turn .push').click()")
    assert page.run("document.activeElement === $('question')")


@pytest.mark.long
def test_an_option_out_of_bounds_is_shown_also_where_options_are_folded(page: Page) -> None:
    page.run("$('options').open = false, $('temperature').value = 3")
    ask(page, "1 + 1?")
    page.wait("$('options').open && document.activeElement === $('temperature')")
    page.run("$('temperature').value = 0.15")
    ask(page, "1 + 1?")
    page.wait(ANSWERED)
    assert {one["temperature"] for one in requests} == {0.15}


@pytest.mark.long
def test_an_answer_and_the_conversation_can_be_copied(page: Page, url: str) -> None:
    page.run("window.copied = [], navigator.clipboard.writeText = async (text) => { copied.push(text); }")
    choose(page, "small", "small@long")
    ask(page, "1 + 1?")
    page.wait(ANSWERED)
    page.run("document.querySelectorAll('article .push').forEach((button) => button.click())")
    page.wait("copied.length === 2 && $('status').textContent === 'Copied.'")
    assert page.run("copied") == [REASONING, ANSWER]
    page.run("$('copyAll').click()")
    page.wait("copied.length === 3")
    whole = page.run("copied[2]")
    assert whole.startswith("## Question\n\n1 + 1?\n\n### small\n\nReasoning: " + REASONING)
    assert "### small@long, mode long" in whole and whole.endswith(ANSWER)


@pytest.mark.long
def test_a_phone_sees_the_answer_after_asking(page: Page) -> None:
    narrow(page, 375)
    ask(page, "1 + 1?")
    page.wait(ANSWERED)
    top, bottom = page.run(
        "(() => { const article = document.querySelector('article').getBoundingClientRect();"
        "return [article.top, $('composer').getBoundingClientRect().top]; })()"
    )
    assert 0 <= top < bottom - 200, "the first answer begins above the question's box"
    assert page.run("[...document.querySelectorAll('.hint')].every((hint) => !hint.offsetParent)")


@pytest.mark.long
def test_a_screen_reader_finds_a_name_for_everything_that_can_be_used(page: Page) -> None:
    page.run("$('problem').value = 'p1', $('problem').dispatchEvent(new Event('change'))")
    page.run("$('question').focus()")
    page.key("Enter", modifiers=CTRL)
    page.wait(ANSWERED)
    page.call("Accessibility.enable")
    nodes = [node for node in page.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
    usable = {"button", "checkbox", "combobox", "textbox", "spinbutton", "article", "main"}
    assert not [role for role, name in named if role in usable and not name.strip()]
    assert {
        ("main", "Conversation"),
        ("heading", "Question 1"),
        ("heading", "small@long"),
        ("article", "small@long"),
        ("group", "Reasoning of small@long"),
        ("button", "Copy the answer of small@long"),
        ("checkbox", "small@long"),
        ("textbox", "Question"),
        ("combobox", "Mode, for small@long"),
    } <= set(named)
    (status,) = [node for node in nodes if node["role"]["value"] == "status"]
    assert {one["name"]: one["value"]["value"] for one in status["properties"]}["live"] == "polite"
