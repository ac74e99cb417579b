"""llama.cpp's quantiser, with an importance matrix and notes for the file's metadata.

cyllama shows both among the quantiser's settings, and lets neither be set (0.2.18); llama.cpp's own functions are
hidden in it. So they are written into the C structure inside its object, once that is seen to be where and what it is
taken for. The version is pinned.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.core.errors import StageError

Importance = Mapping[str, NDArray[np.float32]]
"""Layer or tensor -> one number per column."""
TEXT_BYTES = 128
"""Of a key or text of the metadata, with its end."""
INTEGER, TEXT = 0, 3
"""llama.cpp's own (`llama_model_kv_override_type`)."""
FLAGS = ("allow_requantize", "quantize_output_tensor", "only_copy", "pure", "keep_split", "dry_run")
NUMBERS = ("nthread", "ftype", "output_tensor_type", "token_embedding_type")


class _Entry(ctypes.Structure):
    """`llama_model_imatrix_data`; one without a name ends a list."""

    _fields_ = (("name", ctypes.c_char_p), ("values", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Value(ctypes.Union):
    _fields_ = (("number", ctypes.c_int64), ("text", ctypes.c_char * TEXT_BYTES))


class _Note(ctypes.Structure):
    """`llama_model_kv_override`; one without a key ends a list."""

    _fields_ = (("kind", ctypes.c_int), ("key", ctypes.c_char * TEXT_BYTES), ("value", _Value))


class _Settings(ctypes.Structure):
    """`llama_model_quantize_params`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in NUMBERS),
        *((name, ctypes.c_bool) for name in FLAGS),
        *((name, ctypes.c_void_p) for name in ("imatrix", "kv_overrides", "tt_overrides", "prune_layers")),
    )


def quantise(
    whole: str,
    target: str,
    number: int,
    importance: Importance | None = None,
    notes: Mapping[str, str | int] | None = None,
) -> None:
    """Write a GGUF file with its weights in another type.

    Args:
        whole: the file to read.
        target: the file to write.
        number: of that type, `llama_ftype`.
        importance: tensor -> how much each of its columns counts; tensors without one are rounded as ever.
        notes: key -> value for the file's metadata; texts are cut to what llama.cpp takes.

    Raises:
        StageError: cyllama is laid out in another way.
    """
    from cyllama.llama import llama_cpp

    settings = llama_cpp.LlamaModelQuantizeParams()
    settings.ftype, settings.nthread = number, os.cpu_count() or 1
    # The lists have to live until the quantiser is done.
    entries = entry_list(importance or {})
    overrides = note_list(notes or {})
    if importance:
        own = inner_settings(settings)
        own.imatrix, own.kv_overrides = ctypes.addressof(entries), ctypes.addressof(overrides)
    llama_cpp.model_quantize(whole, target, settings)


def inner_settings(settings: Any) -> Any:
    """The C structure inside cyllama's object: its last part.

    Raises:
        StageError: what stands there is not what the object says of itself.
    """
    own = _Settings.from_address(id(settings) + type(settings).__basicsize__ - ctypes.sizeof(_Settings))
    names = (*NUMBERS, *FLAGS)
    said = [int(getattr(settings, name)) for name in names]
    is_known = [int(getattr(own, name)) for name in names] == said
    if not is_known or any((own.imatrix, own.kv_overrides, own.tt_overrides, own.prune_layers)):
        raise StageError("this version of cyllama is laid out in another way -> install the pinned one (0.2.18)")
    return own


def entry_list(importance: Importance) -> Any:
    """The matrix as llama.cpp reads it. It does not hold the values: `importance` has to live as long."""
    assert all(values.dtype == "float32" and values.flags.c_contiguous for values in importance.values())
    entries = [_Entry(name.encode(), values.ctypes.data, values.size) for name, values in importance.items()]
    return (_Entry * (len(entries) + 1))(*entries)


def note_list(notes: Mapping[str, str | int]) -> Any:
    """Metadata as llama.cpp reads it."""
    found = [_note(key, value) for key, value in notes.items()]
    return (_Note * (len(found) + 1))(*found)


def _note(key: str, value: str | int) -> _Note:
    if isinstance(value, int):
        return _Note(INTEGER, key.encode(), _Value(number=value))
    # Cut between characters.
    text = value.encode()[: TEXT_BYTES - 1].decode(errors="ignore")
    return _Note(TEXT, key.encode(), _Value(text=text.encode()))
