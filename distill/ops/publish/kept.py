"""What GGUF files keep of what training changed."""

from collections.abc import Sequence
from typing import Any


def kept_shares(base: str, whole: str, targets: Sequence[str]) -> dict[str, float | None]:
    """How much files keep of what training changed: their difference from the base model, projected on the student's.

    1: all of it, on the mean, beside the noise of rounding; 0: the file is the base model. Weights that were read from
    a quantised file are rounded back to it by as few bits (findings/gguf_quantised_twice.sh).

    Args:
        base: GGUF file of the base model, not quantised.
        whole: of the student, not quantised.
        targets: of the student.

    Returns:
        Target -> its share; None where training changed no weight.
    """
    from gguf import GGUFReader

    before, trained, *written = (
        {one.name: one for one in GGUFReader(path).tensors} for path in (base, whole, *targets)
    )
    left, total = dict.fromkeys(targets, 0.0), 0.0
    for name, start in before.items():
        end = trained.get(name)
        if end is None or tuple(start.shape) != tuple(end.shape):
            continue  # a vocabulary that was widened for the training
        values = weights(start)
        change = weights(end) - values
        if change.any():
            total += float((change * change).sum(dtype="float64"))
            for path, tensors in zip(targets, written, strict=True):
                left[path] += float(((weights(tensors[name]) - values) * change).sum(dtype="float64"))
    return {path: one / total if total else None for path, one in left.items()}


def weights(tensor: Any) -> Any:
    """The weights of a tensor of a GGUF file, fp32."""
    from gguf.quants import dequantize

    return dequantize(tensor.data, tensor.tensor_type)
