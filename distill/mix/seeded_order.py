"""A reproducible pseudorandom order of identities, as a hash to sort by; for one identity or for whole columns.

Identities are 16 hex digits (`distill.core.schema.content_hash`), that is, 64-bit numbers. They are sorted by

    mix64(identity XOR seed key),   seed key = content_hash("order", purpose, seed)

where mix64 is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014):
shifts and multiplications that numpy applies to whole columns. It is a bijection, so different identities never tie,
and the order depends on neither the order of the rows nor the number of shards.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distill.core.errors import StageError
from distill.core.schema import content_hash

HEX_DIGITS = 16
MASK = 2**64 - 1
_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_NIBBLES = np.full(256, 255, dtype=np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)


def seed_key(purpose: str, seed: int) -> int:
    """The key of the order for a purpose and a seed."""
    return int(content_hash("order", purpose, seed), 16)


def order_hash(keys: NDArray[np.uint64], purpose: str, seed: int) -> NDArray[np.uint64]:
    """The hash to sort each key by; uint64 of the same shape."""
    mixed = keys ^ np.uint64(seed_key(purpose, seed))
    for shift, factor in _STEPS:
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def order_hash_of(identity: str, purpose: str, seed: int) -> int:
    """`order_hash` of one identity."""
    mixed = int(identity, 16) ^ seed_key(purpose, seed)
    for shift, factor in _STEPS:
        mixed = (mixed ^ mixed >> shift) * factor & MASK
    return mixed ^ mixed >> 31


def keys_of(identities: pa.Array | pa.ChunkedArray, what: str) -> NDArray[np.uint64]:
    """A column of identities as numbers.

    `what` names the kind of identity in the error.

    Raises:
        StageError: one of them is not 16 hex digits; names it.
    """
    chunks = identities.chunks if isinstance(identities, pa.ChunkedArray) else [identities]
    parts = [_chunk_keys(chunk.cast(pa.binary()), what) for chunk in chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)


def _chunk_keys(chunk: pa.BinaryArray, what: str) -> NDArray[np.uint64]:
    bounds = np.frombuffer(chunk.buffers()[1], dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    odd = np.flatnonzero(np.diff(bounds) != HEX_DIGITS)
    if not odd.size and not chunk.null_count:
        data = np.frombuffer(chunk.buffers()[2], dtype=np.uint8)[bounds[0] : bounds[-1]]
        nibbles = _NIBBLES[data].reshape(-1, HEX_DIGITS)
        odd = np.flatnonzero(nibbles.max(axis=1) == 255)
        if not odd.size:
            pairs = nibbles[:, 0::2] << 4 | nibbles[:, 1::2]
            return np.ascontiguousarray(pairs).view(">u8").ravel().astype(np.uint64)
    first = chunk[int(odd[0])].as_py() if odd.size else None
    raise StageError(f"mix: {first!r} is no {what} (16 hex digits) -> delete RUN/verify to write the index again")


def identities_of(keys: NDArray[np.uint64]) -> list[str]:
    """Numbers as identities of 16 hex digits; the inverse of `keys_of`."""
    return [f"{key:016x}" for key in keys.tolist()]


def contains(sorted_keys: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each key is among the sorted ones. Unlike `numpy.isin`, it does not sort."""
    if not len(sorted_keys):
        return np.zeros(len(keys), dtype=np.bool_)
    positions = np.searchsorted(sorted_keys, keys)
    is_found: NDArray[np.bool_] = sorted_keys[np.minimum(positions, len(sorted_keys) - 1)] == keys
    return is_found
