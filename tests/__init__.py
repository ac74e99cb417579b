"""Tests: unit (no Ray), integration (local Ray and real engines), gpu, benchmarks."""
