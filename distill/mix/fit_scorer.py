"""Scores how well a trace fits an untrained student: one forward pass per trace, in Ray Data actors.

For each trace, over the tokens that the student would learn (completion and end of turn):

* mean negative log-likelihood, nats per token (GRAPE, arXiv 2502.04194: lower fits better);
* rank-surprisal ratio, sum of min(rank, 100) over sum of negative log-likelihoods (RSR, arXiv 2601.14249: lower is
  better: surprising tokens, but ones that the student itself ranks high);
* shares of unshifted (rank 1), marginal (rank 2 and 3) and shifted (rank above 3) positions, the classes of URIAL
  (arXiv 2312.01552), by which arXiv 2502.12143 (figure 8) distinguishes speaking styles.

Scores are stored by trace and student, so no trace is scored twice. Neighbouring traces of one prompt share its part of
the pass: the keys and values of the prompt are computed once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer

from cluster.cpus import has_fast_bf16
from cluster.storage import local_folder
from distill.config.teachers import ChatFormat
from distill.core.schema import content_hash
from distill.models.chat_template import IGNORED, Rendered, chat_messages, render_example
from distill.models.resolve import load_tokenizer
from distill.models.shape import SCORE_LOGIT_BYTES, SCORE_POSITIONS

FIT_VERSION = 2
MAX_RANK = 100
"""Cap of the ranks in the ratio, as in the paper's code."""
MARGINAL_RANKS = (2, 3)
BATCH_TOKENS = 16_384
"""Most tokens of a forward pass, padding included; a longer trace is a batch by itself."""
COPIED_TOKENS = 4 * BATCH_TOKENS
"""Most tokens of prompts in a forward pass of answers, padding included: each answer has a copy of its prompt's keys
and values, which under worked examples are far longer than it."""


# Producer: FitScorer. Consumers: the policy student_fit, the report.
@dataclass(frozen=True)
class TraceFit:
    """Scores of one trace under one untrained student."""

    trace_id: str
    num_tokens: int
    mean_nll: float
    """Nats per token."""
    rsr: float
    unshifted: float
    marginal: float
    shifted: float
    shifted_tokens: list[int]
    """Token ids at shifted positions."""
    shifted_ranks: list[int]


@dataclass(frozen=True)
class FitJob:
    """What an actor needs. Sent to it by pickle."""

    model_path: str
    chat: ChatFormat
    max_length: int
    device: str
    """`cpu` or `gpu`."""
    is_quick: bool = False
    """In bf16 also on a CPU that multiplies it quickly, for 2.5 times the positions per second; else there in fp32."""


def fit_key(model_identity: str, chat: ChatFormat) -> str:
    """Identity of everything that scores depend on besides the text."""
    return content_hash("fit", FIT_VERSION, model_identity, chat.model_dump())


def trace_fit(trace_id: str, tokens: Sequence[int], nll: Sequence[float], ranks: Sequence[int]) -> TraceFit:
    """Scores from the learnt tokens, their negative log-likelihoods, and their ranks (1: the most likely token)."""
    rank = np.asarray(ranks)
    is_shifted = rank > max(MARGINAL_RANKS)
    surprisal = float(np.sum(nll))
    return TraceFit(
        trace_id=trace_id,
        num_tokens=len(tokens),
        mean_nll=surprisal / len(tokens),
        # A trace of probability 1 has no surprisal: the ratio is its limit, not an error.
        rsr=float(np.minimum(rank, MAX_RANK).sum()) / surprisal if surprisal > 0 else float("inf"),
        unshifted=float((rank == 1).mean()),
        marginal=float(np.isin(rank, MARGINAL_RANKS).mean()),
        shifted=float(is_shifted.mean()),
        shifted_tokens=[int(token) for token, moved in zip(tokens, is_shifted, strict=True) if moved],
        shifted_ranks=rank[is_shifted].tolist(),
    )


def length_batches(lengths: Sequence[int], budget: int = BATCH_TOKENS, *, copied: int = 0) -> Iterator[list[int]]:
    """Batches of rows of similar length whose padded size is within the budget; the longest rows first.

    Args:
        lengths: of the rows, tokens.
        budget: of a batch, tokens.
        copied: tokens that are copied for each row beside its own.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        num_rows = len(batch) + 1
        if batch and (lengths[batch[0]] * num_rows > budget or copied * num_rows > COPIED_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def shared_batches(prompts: Sequence[Sequence[int]], budget: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Batches of neighbouring rows whose distinct prompts, padded to the longest, are within the budget."""
    batch: list[int] = []
    distinct: set[tuple[int, ...]] = set()
    for row, prompt in enumerate(map(tuple, prompts)):
        wider = distinct | {prompt}
        if batch and wider != distinct and len(wider) * max(map(len, wider)) > budget:
            yield batch
            batch, distinct = [], set()
        batch.append(row)
        distinct.add(prompt)
    if batch:
        yield batch


class Split(NamedTuple):
    """A row split before its answer. The prompt's last token goes with the answer, whose first token it predicts."""

    prompt: list[int]
    answer: list[int]
    targets: list[int]
    """What each token of `answer` predicts; `IGNORED` where nothing is learnt."""


def split_row(row: Rendered, *, shares: bool) -> Split:
    """Split before the token that predicts the first learnt one; without sharing, all of the row is answer."""
    ids, labels = list(row.input_ids), list(row.labels)
    first = next(position for position, label in enumerate(labels) if label != IGNORED) - 1 if shares else 0
    return Split(ids[:first], ids[first:], [*labels[first + 1 :], IGNORED])


class FitScorer:
    """Holds a student in an actor; maps batches of (trace_id, problem, completion) to rows of `TraceFit`."""

    def __init__(self, job: FitJob) -> None:
        folder = local_folder(job.model_path)
        self.job, self.tokenizer = job, load_tokenizer(folder)
        is_half = job.device == "gpu" or (job.is_quick and has_fast_bf16())
        dtype = torch.bfloat16 if is_half else torch.float32
        self.device = torch.device("cuda" if job.device == "gpu" else "cpu")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(self.device).eval()
        self._kept = torch.empty(0)
        # Layers with a sliding window or a recurrent state have no full keys and values to share.
        self.shares = all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.model.config).layers)
        # Only learnt positions reach the output layer: logits of prompts and padding would be wasted.
        self.model.get_output_embeddings().register_forward_pre_hook(self._select)

    def _select(self, _module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0][self._kept].unsqueeze(0), *args[1:])

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        rendered = [self.render(*row) for row in zip(batch["problem"], batch["completion"], strict=True)]
        fits = self.score([str(name) for name in batch["trace_id"]], rendered)
        return {name: [getattr(fit, name) for fit in fits] for name in TraceFit.__dataclass_fields__}

    def render(self, problem: str, completion: str) -> Rendered:
        """The training row of a trace. The filters have removed traces that have none."""
        turns = [*chat_messages(problem, self.job.chat), {"role": "assistant", "content": completion.strip()}]
        row = render_example(self.tokenizer, turns, self.job.max_length, self.job.chat.template_options)
        assert not isinstance(row, str), f"a trace without a training row passed the filters: {row}"
        return row

    @torch.no_grad()
    def score(self, trace_ids: Sequence[str], rows: Sequence[Rendered]) -> list[TraceFit]:
        """Score traces; those of one prompt should be neighbours."""
        return [
            trace_fit(trace_ids[row], found.tokens.tolist(), found.nll.tolist(), found.ranks.tolist())
            for row, found in self._surprisals(rows, BATCH_TOKENS)
        ]

    @torch.no_grad()
    def log_probabilities(self, rows: Sequence[Rendered]) -> list[NDArray[np.float32]]:
        """Log-probability of every learnt token of each row, nats; those of one prompt should be neighbours.

        Beside the model it takes at most `SCORE_LOGIT_BYTES` for logits, whatever the vocabulary, or those of one row.
        """
        width = int(self.model.get_output_embeddings().weight.shape[0])
        budget = max(1, min(BATCH_TOKENS, SCORE_LOGIT_BYTES // (width * self.model.dtype.itemsize)))
        found = {row: -one.nll.float().cpu().numpy() for row, one in self._surprisals(rows, budget)}
        return [found[row] for row in range(len(rows))]

    def _surprisals(self, rows: Sequence[Rendered], budget: int) -> "Iterator[tuple[int, Surprisal]]":
        """Every row by its number, in the order of the passes. `budget`: most answer tokens of a pass."""
        splits = [split_row(row, shares=self.shares) for row in rows]
        for batch in shared_batches([split.prompt for split in splits]):
            prompts = list(dict.fromkeys(tuple(splits[row].prompt) for row in batch))
            cache = self._read_prompts(prompts)
            copied = 0 if cache is None else cache.mask.shape[1]
            for positions in length_batches([len(splits[row].answer) for row in batch], budget, copied=copied):
                part = [batch[position] for position in positions]
                prompt_of = [prompts.index(tuple(splits[row].prompt)) for row in part]
                answers = [splits[row] for row in part]
                yield from zip(part, self._score_answers(answers, prompt_of, cache), strict=True)

    def _read_prompts(self, prompts: Sequence[tuple[int, ...]]) -> "PromptCache | None":
        """Keys and values of the prompts; None where nothing is shared."""
        if not any(prompts):
            return None
        ids, mask = self._padded(prompts)
        self._kept = torch.zeros_like(mask)  # no logits
        cache = self.model(input_ids=ids, attention_mask=mask.long(), use_cache=True).past_key_values
        return PromptCache(mask, [(layer.keys, layer.values) for layer in cache.layers])

    def _score_answers(
        self, rows: Sequence[Split], prompt_of: Sequence[int], prompts: "PromptCache | None"
    ) -> "list[Surprisal]":
        """One forward pass over answers padded on the right; padding is neither attended to nor scored.

        `prompt_of`: the index in `prompts` of each row's prompt.
        """
        ids, mask = self._padded([row.answer for row in rows])
        targets, _ = self._padded([row.targets for row in rows], IGNORED)
        self._kept = targets != IGNORED
        positions = torch.arange(ids.shape[1], device=self.device).expand_as(ids)
        cache = None
        if prompts is not None:
            wanted = torch.tensor(prompt_of, device=self.device)
            positions = positions + prompts.mask[wanted].sum(dim=1, keepdim=True)
            mask = torch.cat([prompts.mask[wanted], mask], dim=1)
            cache = DynamicCache([(keys[wanted], values[wanted]) for keys, values in prompts.layers])
        logits = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).logits[0]
        learnt = targets[self._kept]
        nll, ranks = surprisal_and_rank(logits, learnt)
        sizes = self._kept.sum(dim=1).tolist()
        return list(map(Surprisal, learnt.split(sizes), nll.split(sizes), ranks.split(sizes)))

    def _padded(self, rows: Sequence[Sequence[int]], filler: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows padded to equal width, and a mask of what is not padding."""
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], device=self.device)
        lengths = torch.tensor([[len(row)] for row in rows], device=self.device)
        return ids, torch.arange(width, device=self.device) < lengths


class Surprisal(NamedTuple):
    """The learnt tokens of a row, [n] each."""

    tokens: torch.Tensor
    nll: torch.Tensor
    """Negative log-likelihood, nats."""
    ranks: torch.Tensor
    """1: the most likely token."""


class PromptCache(NamedTuple):
    """Keys and values of some prompts."""

    mask: torch.Tensor
    """[prompts, width]: True where there is no padding."""
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    """(keys, values) of each layer, [prompts, heads, width, head size] each."""


def surprisal_and_rank(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood and rank of each target, [n] each, from [n, vocabulary] logits.

    The rank is one more than the number of more likely tokens, so that ties share the better rank.
    """
    nll, ranks = [], []
    for part, wanted in zip(logits.split(SCORE_POSITIONS), targets.split(SCORE_POSITIONS), strict=True):
        scores = part.float()
        chosen = scores.gather(1, wanted[:, None])
        nll.append(scores.logsumexp(dim=1) - chosen[:, 0])
        ranks.append((scores > chosen).sum(dim=1) + 1)
    return torch.cat(nll), torch.cat(ranks)
