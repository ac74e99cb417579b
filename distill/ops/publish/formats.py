"""The formats that a student is published in, and how large their files become."""

from typing import NamedTuple

from distill.core.errors import InputError

SAFETENSORS = "safetensors"


class GgufType(NamedTuple):
    """One way in which llama.cpp stores weights."""

    name: str
    """Suffix of the file, and of the arm's name in the report."""
    number: int
    """llama.cpp's own (`llama_ftype`)."""
    bits: float
    """Bits per weight, about. Rows whose length 256 does not divide take more."""

    @property
    def is_coarse(self) -> bool:
        """Whether rounding is felt: below eight bits. Such files can be calibrated; and small changes of weights that
        were quantised before are rounded away (findings/gguf_quantised_twice.sh)."""
        return self.bits < 8


GGUF_TYPES = {
    f"gguf-{one.name}": one
    for one in (
        GgufType("q8_0", 7, 8.5),
        GgufType("q6_k", 18, 6.6),
        GgufType("q5_k_m", 17, 5.7),
        GgufType("q4_k_m", 15, 4.9),
    )
}
"""Format -> what llama.cpp calls it."""

FORMATS = (SAFETENSORS, *GGUF_TYPES)

NOT_WRITTEN = ("awq", "fp8")
"""Formats that people ask for. auto-round has both; neither was tried: see docs/publish.md."""


def read_formats(text: str) -> tuple[str, ...]:
    """The formats of `--formats A,B`, in the order of `FORMATS`, each once.

    Raises:
        InputError: one is unknown, or none is named.
    """
    named = [name.strip() for name in text.split(",") if name.strip()]
    if not named:
        raise InputError(f"--formats: none is named -> {', '.join(FORMATS)}")
    for name in named:
        if name in NOT_WRITTEN:
            why = "it is made for GPUs, and there was none to calibrate it and to score what it costs"
            raise InputError(f"--formats: {name} is not written: {why} -> {', '.join(FORMATS)}")
        if name not in FORMATS:
            raise InputError(f"--formats: there is no format {name!r} -> {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in named)


def gguf_types(formats: tuple[str, ...]) -> list[GgufType]:
    """The GGUF files among the formats."""
    return [GGUF_TYPES[name] for name in formats if name in GGUF_TYPES]
