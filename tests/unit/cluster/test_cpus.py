"""What a CPU's own description says about its speed, and what engines take from it."""

from pathlib import Path

import pytest

from cluster import vllm_args
from cluster.cpus import has_fast_bf16
from cluster.vllm_args import engine_arguments, engine_env, engine_threads

PLAIN = (
    "processor\t: 0\nmodel name\t: some CPU\nflags\t\t: fpu fma avx2{}\n\nprocessor\t: 1\nflags\t\t: fpu fma avx2{}\n"
)


@pytest.mark.parametrize(
    ("added", "fast"), [("", False), (" avx512f", False), (" avx512_bf16", True), (" amx_bf16", True)]
)
def test_bf16_is_fast_where_the_cpu_has_instructions_for_it(tmp_path: Path, added: str, fast: bool) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(PLAIN.format(added, added))
    assert has_fast_bf16(info) is fast


def test_bf16_is_not_expected_where_nothing_tells(tmp_path: Path) -> None:
    assert not has_fast_bf16(tmp_path / "none")


@pytest.mark.parametrize(("fast", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_engines_on_cpu_compute_in_what_is_fast(monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: str) -> None:
    monkeypatch.setattr(vllm_args, "has_fast_bf16", lambda: fast)
    assert engine_arguments("cpu", max_model_len=64, kv_cache_gib=0.1, extra={})["dtype"] == dtype
    own = engine_arguments("cpu", max_model_len=64, kv_cache_gib=0.1, extra={"dtype": "auto"})
    assert own["dtype"] == "auto" and "dtype" not in engine_arguments(
        "gpu", max_model_len=64, kv_cache_gib=0.1, extra={}
    )


def test_an_engine_leaves_a_core_where_there_are_more_than_two() -> None:
    assert [engine_threads(cores) for cores in (1, 2, 3, 8)] == [1, 2, 2, 7]
    assert [engine_threads(cores, is_served=True) for cores in (1, 2, 3, 8)] == [1, 1, 2, 7]
    large = [engine_threads(cores, is_served=True, served_bytes=990_000_000) for cores in (1, 2, 3, 8)]
    assert large == [1, 2, 2, 7]
    assert engine_env("cpu", "no/folder", 5)["OMP_NUM_THREADS"] == "5"
