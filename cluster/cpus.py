"""What a CPU is fast at."""

from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16"})
"""Instructions that multiply bf16 numbers. Without them libraries widen every pair, an order of magnitude slower."""


def has_fast_bf16(cpu_info: Path = CPU_INFO) -> bool:
    """Whether this machine's CPU multiplies bf16 matrices faster than fp32 ones; no where Linux does not tell."""
    if not cpu_info.exists():
        return False
    lines = cpu_info.read_text(encoding="utf-8").splitlines()
    features = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return not BF16_FEATURES.isdisjoint(features.split())
