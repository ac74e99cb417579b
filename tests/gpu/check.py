"""What only a GPU can tell, in one script of at most 8 minutes on one H100 or H200:

    python -m tests.gpu.check [--toy] [--trl] [--seconds N]

It needs torch, transformers, peft, deepspeed and pyarrow (trl and datasets too with `--trl`), no network, no model and
no Ray: weights are random, of the sizes of Qwen2.5 0.5B and 1.5B. In this order,
until the time is used up: packed rows against each row alone, a
checkpoint and its continuation, the merging of an adapter, tokens per second with all weights and with an adapter at
4,096 and 16,384 packed tokens, TRL on the same rows, other kernels. `--toy` does the same with a model of two layers,
on a CPU in seconds. A measurement that fails is recorded with its error. The last line is a JSON object, ratios first.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.gpu import ours, trl
from tests.gpu.models import KINDS, SHAPES, Size, make_rows, packed_row_lengths, save_model

SIZES = (Size(4096, 3, 12), Size(16_384, 2, 6))
TOY_SIZES = (Size(64, 1, 2),)
Measurement = tuple[str, Callable[[], Any]]
"""A name such as `speed/0.5B/full/4096`, and what computes its value."""


def measurements(*, is_toy: bool, with_trl: bool, folder: Path) -> Iterator[Measurement]:
    """All of them, the most telling first."""
    models = {name: folder / name for name in (["toy"] if is_toy else ["0.5B", "1.5B"])}
    for kind, settings in KINDS.items():
        yield f"packing/{kind}", partial(_packing, settings, folder / kind)
    first = next(iter(models))
    for name, path in models.items():
        save_model(SHAPES[name], path, ours.WHERE.type)
    size = TOY_SIZES[0] if is_toy else Size(1024, 0, 6)
    yield "resume", partial(ours.resume_error, models[first], _batches(first, size._replace(steps=6)), folder / "state",
                            size.tokens)  # fmt: skip
    yield "merge", partial(ours.merge_error, models[first], _batches(first, size)[0])
    sides = [("ours", None), *(("trl", settings) for settings in trl.SETTINGS if with_trl)]
    for name, path in models.items():
        for size in reversed(TOY_SIZES if is_toy else SIZES):
            for tune in ours.TUNES:
                batches = _batches(name, size)
                for side, settings in sides:
                    label = f"{side}/{name}/{tune}/{size.tokens}"
                    if settings is None:
                        yield label, partial(ours.speed, SHAPES[name], path, tune, batches, size=size)
                    else:
                        work = partial(trl.speed, path, tune, batches, settings, size=size, folder=folder / "trl")
                        yield f"{label}/{settings}", work
    size = (TOY_SIZES if is_toy else SIZES)[-1]
    for kernels in ("torch",) if is_toy else ("torch", "liger", "compile"):
        work = partial(ours.speed, SHAPES[first], models[first], "full", _batches(first, size), size=size,
                       kernels=kernels)  # fmt: skip
        yield f"kernels/{kernels}", work


def _packing(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    save_model(settings, folder, ours.WHERE.type)
    return ours.packing_error(folder, make_rows([70, 9, 41, 64], settings["vocab_size"], seed=3))


def _batches(name: str, size: Size) -> list[list[Any]]:
    vocab = SHAPES[name]["vocab_size"]
    count = size.warmup + size.steps
    return [make_rows(packed_row_lengths(size.tokens, seed), vocab, seed) for seed in range(count)]


def measure(work: Callable[[], Any]) -> Any:
    """A value, or the error that stands in its place: one kernel that fails must not cost the other figures."""
    try:
        return work()
    except (RuntimeError, ValueError, TypeError, AttributeError, ImportError, OSError) as error:
        return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}
    finally:
        ours.free()


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Ours beside TRL's quickest settings, for every model, tuning and length that both were measured at."""
    quickest: dict[str, float] = {}
    for name, value in found.items():
        side, _, case = name.partition("/")
        if side == "trl" and "tokens_per_s" in value:
            case = case.rpartition("/")[0]
            quickest[case] = max(quickest.get(case, 0.0), value["tokens_per_s"])
    rates = {name.removeprefix("ours/"): value.get("tokens_per_s") for name, value in found.items() if "ours/" in name}
    return {case: round(rates[case] / rate, 3) for case, rate in quickest.items() if rates.get(case)}


def summary(found: dict[str, Any], skipped: list[str], seconds: float) -> dict[str, Any]:
    """The figures in the order in which they are asked for."""
    return {
        "ratio_vs_trl": ratios(found),
        "mfu": _column(found, "mfu"),
        "device": torch.cuda.get_device_name() if ours.DEVICE == "gpu" else "cpu",
        "versions": {name: version for name in ("torch", "transformers", "deepspeed", "trl", "liger_kernel")
                     if (version := _version(name))},
        "errors": _column(found, "error"),
        "skipped": skipped,
        "seconds": round(seconds, 1),
        "found": found,
    }  # fmt: skip


def _column(found: dict[str, Any], name: str) -> dict[str, Any]:
    return {case: value[name] for case, value in found.items() if isinstance(value, dict) and name in value}


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:
        return ""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="a model of two layers")
    parser.add_argument("--trl", action="store_true", help="TRL on the same rows")
    parser.add_argument("--seconds", type=float, default=420.0, help="nothing is begun after this time")
    asked = parser.parse_args()
    if asked.trl and find_spec("trl") is None:
        parser.error("trl is not installed: leave out --trl, or pip install trl")
    if asked.toy:
        torch.set_num_threads(1)  # a second thread is only waited for where products are this small
    started, found, skipped = time.monotonic(), dict[str, Any](), list[str]()
    with TemporaryDirectory() as folder, ours.one_process():
        for name, work in measurements(is_toy=asked.toy, with_trl=asked.trl, folder=Path(folder)):
            if time.monotonic() - started > asked.seconds:
                skipped.append(name)
                continue
            found[name] = measure(work)
            print(f"{time.monotonic() - started:6.1f} s  {name}: {json.dumps(found[name])}", flush=True)
    print(json.dumps(summary(found, skipped, time.monotonic() - started)))


if __name__ == "__main__":
    main()
