"""The presets: where a data set is, what its columns mean, its licence, and what is lost.

Schemas are those that the data sets' cards and published code that reads them show; no hub was reachable where they
were written, so rows of our own in the same schema are what each is tested with (`tests/cases/presets.jsonl`).
Licences are those of cards that were read; where one was not, there are none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = Mapping[str, Any]

OWN_DATA = "package://distill/prompts/shipped"
"""Where the sets lie that ship with this package."""


@dataclass(frozen=True)
class Preset:
    """A data set, and how its rows are read."""

    dataset: str
    """Hub id; empty for a file that ships with this package, and for a format that has no data set of its own."""
    prompts: Fields | None
    """Fields of a source of prompts; None where its rows give none."""
    traces: Fields | None
    """Fields of a teacher of kind `dataset`; None where its rows hold no traces that can be verified."""
    source: Fields = field(default_factory=dict)
    """Further fields of the hub source: subset, split, data_files, streaming; of a file that ships its path."""
    licences: tuple[str, ...] = ()
    """As its card states them; none where it was not read."""
    note: str = ""
    """What is lost or has to be known; why there are no prompts or traces where there are none."""

    @property
    def location(self) -> dict[str, Any]:
        """The source; empty for a format without one."""
        if not self.dataset:
            return {"kind": "file", **self.source} if self.source else {}
        return {"kind": "hub", "dataset": self.dataset, **self.source}

    @property
    def prompt_fields(self) -> Fields:
        """Fields of a source of prompts; none where its rows give none."""
        return self.prompts or {}


def _rows(where: Fields | None = None, /, **columns: Any) -> dict[str, Any]:
    """A mapping: columns, and which rows."""
    return {"columns": columns, **({"where": where} if where else {})}


BEHIND_BOXED = r"\A(?:[^\n]{0,200}?\\boxed\{\}\S*\s+)?(?P<problem>.+)\Z"
"""The problem behind a first sentence that asks for a `\\boxed{}`, where there is one."""
BETWEEN_PARAGRAPHS = r"\A.+?\n\n(?P<problem>.+)\n\n[^\n]+\Z"
"""The problem between a first and a last paragraph of instructions."""
THOUGHTS = {"reasoning_end": "<|end_of_thought|>", "ends_with": "<|end_of_solution|>"}
BOXED_MESSAGES = _rows(problem="messages", reference="messages", reference_from="box")
MESSAGES = _rows(problem="messages", completion="messages")
BOXED_CONVERSATIONS = _rows(problem="conversations", reference="conversations", reference_from="box")
CONVERSATIONS = _rows(problem="conversations", completion="conversations")
STRIPPED = {"problem": "conversations", "problem_pattern": BEHIND_BOXED}
STRIPPED_PROMPTS = _rows(**STRIPPED, reference="conversations", reference_from="box")
STRIPPED_TRACES = {**_rows(**STRIPPED, completion="conversations"), **THOUGHTS}
FROM_TRACES = "no reference answers: they are taken from the traces' own boxes and marked so"
IN_BOX = "the reference is what the solution boxes; rows that box nothing are dropped"
SENTENCE = "prompts are wrapped in an instruction; set columns.problem_pattern to take it off"


def _nemotron_math(split: str) -> Preset:
    note = "one effort of gpt-oss-120b; traces that use tools are dropped; files of 38 GB: set source.max_rows"
    return Preset(
        "nvidia/Nemotron-Math-v2",
        prompts=_rows(reference="expected_answer", subject="data_source"),
        traces=_rows(completion="messages"),
        source={"split": split, "streaming": True},
        licences=("cc-by-4.0", "cc-by-sa-4.0"),
        note=note,
    )


PRESETS: dict[str, Preset] = {
    "nemotron-math-v2-high": _nemotron_math("high_part00"),
    "nemotron-math-v2-medium": _nemotron_math("medium"),
    "nemotron-math-v2-low": _nemotron_math("low"),
    "openr1-math-220k": Preset(
        "open-r1/OpenR1-Math-220k",
        prompts=_rows(subject="problem_type"),
        traces=_rows(completion="generations", finish_reason="finish_reasons"),
        licences=("apache-2.0",),
        note="its own correctness columns are not used, the verifier grades; `columns.correct` uses one of them",
    ),
    "mixture-of-thoughts": Preset(
        "open-r1/Mixture-of-Thoughts", BOXED_MESSAGES, MESSAGES, source={"subset": "math"}, note=FROM_TRACES
    ),
    "openthoughts3-1.2m": Preset(
        "open-thoughts/OpenThoughts3-1.2M",
        prompts={
            **_rows({"domain": "math"}, problem="conversations", reference="conversations", reference_from="majority"),
        },
        traces={**CONVERSATIONS, "where": {"domain": "math"}},
        licences=("apache-2.0",),
        note="no reference answers: the majority of a problem's traces is taken, and marked so; problems without one"
        " are dropped",
    ),
    "openthoughts-114k": Preset(
        "open-thoughts/OpenThoughts-114k", STRIPPED_PROMPTS, STRIPPED_TRACES, licences=("apache-2.0",), note=FROM_TRACES
    ),
    "bespoke-stratos-17k": Preset(
        "bespokelabs/Bespoke-Stratos-17k", STRIPPED_PROMPTS, STRIPPED_TRACES, note=FROM_TRACES
    ),
    "sky-t1-17k": Preset("NovaSky-AI/Sky-T1_data_17k", STRIPPED_PROMPTS, STRIPPED_TRACES, note=FROM_TRACES),
    "openmathreasoning": Preset(
        "nvidia/OpenMathReasoning",
        prompts=_rows({"problem_type": "has_answer_extracted"}, reference="expected_answer", subject="problem_source"),
        traces={**_rows({"inference_mode": "cot"}, completion="generated_solution")},
        source={"split": "cot"},
        licences=("cc-by-4.0",),
        note="two teachers in one split: choose by `where = { generation_model = ... }`",
    ),
    "openmathinstruct-2": Preset(
        "nvidia/OpenMathInstruct-2",
        prompts=_rows(reference="expected_answer", subject="problem_source"),
        traces=_rows(completion="generated_solution"),
        note="short traces",
    ),
    "limo": Preset("GAIR/LIMO", _rows(problem="question"), _rows(problem="question", completion="solution")),
    "limo-v2": Preset("GAIR/LIMO-v2", _rows(problem="question"), _rows(problem="question", completion="solution")),
    "numinamath-cot": Preset(
        "AI-MO/NuminaMath-CoT",
        prompts=_rows(reference="solution", reference_from="box", subject="source"),
        traces=_rows(completion="solution"),
        note=f"short traces; {IN_BOX}",
    ),
    "numinamath-1.5": Preset(
        "AI-MO/NuminaMath-1.5",
        prompts=_rows(
            {"question_type": "math-word-problem", "problem_is_valid": "Yes", "solution_is_valid": "Yes"},
            subject="problem_type",
        ),
        traces=_rows({"solution_is_valid": "Yes"}, completion="solution"),
        note="short traces; proofs, multiple choice and invalid problems are left out",
    ),
    "gsm8k": Preset(
        "openai/gsm8k",
        prompts={**_rows(problem="question"), "answer_kind": "number"},
        traces=_rows(problem="question", completion="answer"),
        source={"subset": "main"},
        licences=("mit",),
        note="short traces, with calculator marks in them",
    ),
    "math": Preset(
        "DigitalLearningGmbH/MATH-lighteval",
        prompts=_rows(reference="solution", reference_from="box", subject="type"),
        traces=_rows(completion="solution"),
        note=f"short traces; {IN_BOX}",
    ),
    "metamathqa": Preset(
        "meta-math/MetaMathQA",
        prompts=None,
        traces=_rows(problem="query", completion="response"),
        note="short traces; no reference answers and no boxes to take them from: use it for prompts from elsewhere",
    ),
    "uwnsl-long": Preset(
        "UWNSL/MATH_training_split_long_cot",
        prompts=_rows(reference="solution", reference_from="box"),
        traces={**_rows(completion="solution"), "reasoning_end": ""},
        note=f"{FROM_TRACES}; the reasoning has no delimiter",
    ),
    "uwnsl-short": Preset(
        "UWNSL/MATH_training_split_short_cot",
        prompts=_rows(reference="solution", reference_from="box"),
        traces=_rows(completion="solution"),
        note=FROM_TRACES,
    ),
    "s1k-1.1": Preset(
        "simplescaling/s1K-1.1",
        prompts=_rows(problem="question", reference="solution", subject="cot_type"),
        traces=_rows(problem="question", completion="deepseek_attempt", reasoning="deepseek_thinking_trajectory"),
        licences=("mit",),
        note="some references are whole solutions, or proofs",
    ),
    "am-deepseek-r1-distilled": Preset(
        "a-m-team/AM-DeepSeek-R1-Distilled-1.4M",
        prompts=_rows(problem="messages", reference="messages.0.info.reference_answer"),
        traces=MESSAGES,
        source={"data_files": ["am_0.9M.jsonl.zst"], "streaming": True},
        note="rows of other tasks have no reference answer and are dropped",
    ),
    "synthetic-1": Preset(
        "PrimeIntellect/SYNTHETIC-1",
        prompts=_rows({"task_type": "verifiable_math"}, problem="prompt", reference="verification_info.ground_truth"),
        traces=_rows({"task_type": "verifiable_math"}, problem="prompt", completion="llm_response"),
        source={"streaming": True},
        licences=("apache-2.0",),
        note=SENTENCE,
    ),
    "synthetic-1-sft": Preset(
        "PrimeIntellect/SYNTHETIC-1-SFT-Data", BOXED_MESSAGES, MESSAGES, note=f"{FROM_TRACES}; {SENTENCE}"
    ),
    "synthetic-2-sft": Preset(
        "PrimeIntellect/SYNTHETIC-2-SFT-verified", BOXED_MESSAGES, MESSAGES, note=f"{FROM_TRACES}; {SENTENCE}"
    ),
    "light-r1": Preset("qihoo360/Light-R1-SFTData", BOXED_CONVERSATIONS, CONVERSATIONS, note=FROM_TRACES),
    "deepmath-103k": Preset(
        "zwhe99/DeepMath-103K",
        prompts=_rows(problem="question", reference="final_answer", level="difficulty", subject="topic"),
        traces=_rows(problem="question", completion=["r1_solution_1", "r1_solution_2", "r1_solution_3"]),
        licences=("mit",),
        note="three traces a problem, in one pool",
    ),
    "nemotron-post-training-v1": Preset(
        "nvidia/Nemotron-Post-Training-Dataset-v1",
        prompts=_rows(problem="messages", reference="metadata.expected_answer"),
        traces=MESSAGES,
        source={"split": "math", "streaming": True},
        licences=("cc-by-4.0",),
    ),
    "llama-nemotron-post-training": Preset(
        "nvidia/Llama-Nemotron-Post-Training-Dataset",
        prompts=_rows({"reasoning": "on"}, problem="input", reference="output", reference_from="majority"),
        traces=_rows({"reasoning": "on"}, problem="input", completion="output"),
        source={"subset": "SFT", "split": "math", "streaming": True},
        licences=("cc-by-4.0",),
        note="no reference answers: the majority of a problem's traces is taken, and marked so; problems of one trace"
        " have none",
    ),
    "big-math-rl": Preset(
        "SynthLabsAI/Big-Math-RL-Verified",
        prompts=_rows(level="llama8b_solve_rate", subject="domain"),
        traces=None,
        note="no traces; by difficulty: `where = { llama8b_solve_rate = { min = 0.1, max = 0.8 } }`",
    ),
    "dapo-math-17k": Preset(
        "BytedTsinghua-SIA/DAPO-Math-17k",
        prompts=_rows(problem="prompt", problem_pattern=BETWEEN_PARAGRAPHS, reference="reward_model.ground_truth"),
        traces=None,
        note="no traces; each problem is there many times, and is taken once",
    ),
    "dapo-math-17k-processed": Preset(
        "open-r1/DAPO-Math-17k-Processed",
        prompts=_rows(problem="prompt", reference="solution"),
        traces=None,
        source={"subset": "en"},
        note="no traces",
    ),
    "aime-1983-2024": Preset(
        "gneubig/aime-1983-2024",
        prompts={**_rows(problem="Question", reference="Answer", level="Year"), "answer_kind": "number"},
        traces=None,
        note="no traces",
    ),
    "mgsm": Preset(
        "jbross-ibm-research/mgsm",
        prompts={**_rows(problem="question", reference="answer_number"), "answer_kind": "number"},
        traces=None,
        source={"split": "test"},
        licences=("cc-by-sa-4.0",),
        note="a benchmark; set `subset` and `language` to one of its languages",
    ),
    "anesbench": Preset(
        "MiliLab/AnesBench",
        prompts={
            **_rows(problem="question", reference="target", choices=tuple("ABCDEFGHI"), level="category"),
            "answer_kind": "choice",
        },
        traces=None,
        source={"split": "test"},
        licences=("c-uda",),
        note="level 1 is factual retrieval, 2 hybrid reasoning, 3 complex decisions",
    ),
    "mmlu-pro": Preset(
        "TIGER-Lab/MMLU-Pro",
        prompts={
            **_rows(problem="question", choices="options", choice_index="answer_index", subject="category"),
            "answer_kind": "choice",
        },
        traces=None,
        source={"split": "test"},
        licences=("mit",),
        note="up to ten options",
    ),
    "natural-reasoning": Preset(
        "facebook/natural_reasoning",
        prompts=_rows(problem="question", reference="reference_answer"),
        traces=_rows(problem="question", completion="responses.response"),
        note="many references are prose, which rules cannot compare: such answers are not trained on",
    ),
    "dolphin-r1": Preset(
        "cognitivecomputations/dolphin-r1",
        prompts=_rows(problem="messages", reference="answer", reference_from="box"),
        traces=_rows(problem="messages", completion="answer", reasoning="reasoning"),
        source={"subset": "reasoning-deepseek"},
        note=FROM_TRACES,
    ),
    "opencodereasoning": Preset(
        "nvidia/OpenCodeReasoning",
        prompts=None,
        traces=None,
        note="is code, and there is no verifier for code",
    ),
    "ifeval": Preset(
        "google/IFEval",
        prompts={**_rows(problem="prompt"), "answer_kind": "instructions"},
        traces=None,
        note="prompts whose instructions rules can check; no traces",
    ),
    "instructions-60": Preset(
        "",
        prompts={**_rows(problem="prompt"), "answer_kind": "instructions"},
        traces=None,
        source={"path": f"{OWN_DATA}/instructions-60.jsonl"},
        note="our own prompts with instructions that rules can check; no traces",
    ),
    "harmless-40": Preset(
        "",
        prompts={**_rows(problem="prompt"), "answer_kind": "refusal"},
        traces=None,
        source={"path": f"{OWN_DATA}/harmless-40.jsonl"},
        note="our own harmless questions that might be refused; no traces",
    ),
    "own-dataset": Preset(
        "",
        prompts=_rows(answer_kind="answer_kind", entry="entry"),
        traces=_rows(completion="messages"),
        note="`distill export --format dataset`; set `path`",
    ),
    "own-open-r1": Preset(
        "",
        prompts=_rows(answer_kind="answer_kind", entry="entry", subject="problem_type"),
        traces=_rows(completion="generations", finish_reason="finish_reasons"),
        note="`distill export --format open_r1`; set `path`",
    ),
    "own-messages": Preset(
        "",
        prompts=None,
        traces=_rows(problem="messages", completion="messages"),
        note="`distill export --format messages` holds no reference answers: its prompts come from the run or from the"
        " format `dataset`",
    ),
    "own-prompt-completion": Preset(
        "",
        prompts=None,
        traces=_rows(problem="prompt", completion="completion"),
        note="`distill export --format prompt_completion` holds no reference answers: its prompts come from the run or"
        " from the format `dataset`",
    ),
    "own-sharegpt": Preset(
        "",
        prompts=None,
        traces=_rows(problem="conversations", completion="conversations"),
        note="`distill export --format sharegpt` holds no reference answers: its prompts come from the run or from the"
        " format `dataset`",
    ),
}
