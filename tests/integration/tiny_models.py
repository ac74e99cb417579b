"""Models small enough to start an engine on them in a test: made on the spot, the same bytes for a seed."""

import string
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.config.teachers import ChatFormat
from distill.models.chat_template import chat_messages, render_example

ANSWER = "The answer is \\boxed{1}."
"""What a model says after `teach_one_answer`."""

HEAD_DIM = 32
"""The smallest that vLLM's CPU attention takes."""

SPECIALS = ("<unk>", "<pad>", "<|im_start|>", "<|im_end|>")
UNK, PAD, BOS, EOS = SPECIALS

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tiny_model(path: Path, *, layers: int = 2, hidden: int = 64, seed: int = 0) -> Path:
    """Save a random Llama of `layers` layers and width `hidden`, with tokenizer and chat template; return `path`."""
    assert hidden % HEAD_DIM == 0, f"hidden must be a multiple of {HEAD_DIM}, got {hidden}"
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // HEAD_DIM,
            num_key_value_heads=hidden // HEAD_DIM,
            head_dim=HEAD_DIM,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            # Wide enough for sharp logits: greedy answers then do not hang on the last bit of a sum.
            initializer_range=0.2,
            bos_token_id=tokenizer.convert_tokens_to_ids(BOS),
            eos_token_id=tokenizer.convert_tokens_to_ids(EOS),
            pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        )
    )
    model.to(torch.bfloat16).save_pretrained(path, safe_serialization=True)
    tokenizer.save_pretrained(path)
    return path


def make_tiny_adapter(path: Path, model: Path, *, rank: int = 4, seed: int = 0) -> Path:
    """Save a LoRA adapter on `model` that changes its answers (peft starts adapters at no effect); return `path`."""
    torch.manual_seed(seed)
    base = LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(base, lora)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(path)
    return path


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character; anything else is unknown."""
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *string.printable])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNK,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        chat_template=CHAT_TEMPLATE,
    )


def teach_one_answer(path: Path) -> None:
    """Overfit a tiny model until it answers everything with 1: a teacher that solves what has that answer."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    chats = [ChatFormat(), ChatFormat(template="Think. {problem}")]
    turns = [
        [*chat_messages(f"What is {number} - {number - 1}?", chat), {"role": "assistant", "content": ANSWER}]
        for number in (3, 18, 77)
        for chat in chats
    ]
    rows = [render_example(tokenizer, messages, 256) for messages in turns]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(240):
        row = rows[step % len(rows)]
        assert not isinstance(row, str), row
        loss = model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.to(torch.bfloat16).save_pretrained(path)
