"""Stage 6: students and their untouched selves answer the benchmarks; the verifier grades the answers."""
