"""Whether an engine applies an adapter: by names alone, before anything is loaded.

An engine loads the weights of a model's folder, and finds the place of an adapter's matrices by the same names. A
student may be trained under other names: transformers loads a `Qwen3_5ForConditionalGeneration` as
`Qwen3_5ForCausalLM`, whose layers are `model.layers.*` and not `model.language_model.layers.*`. vLLM 0.29 then loads
the adapter without a word and without effect.
"""

import re
from collections.abc import Iterable

_PREFIX = "base_model.model."
_MATRIX = re.compile(r"\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)(?:\.\w+)*$")


def adapted_modules(adapter: Iterable[str]) -> list[str]:
    """Modules that an adapter changes, as the model that it was trained on names them.

    `adapter`: names of its tensors, as peft saves them.
    """
    return sorted({_MATRIX.sub("", name).removeprefix(_PREFIX) for name in adapter})


def unmatched_modules(adapter: Iterable[str], weights: Iterable[str]) -> list[str]:
    """Those modules of an adapter that have no weight of their name in the model that an engine loads.

    Args:
        adapter: names of the adapter's tensors.
        weights: names of the tensors in the model's folder.
    """
    known = {name.rpartition(".")[0] for name in weights}
    return [module for module in adapted_modules(adapter) if module not in known]
