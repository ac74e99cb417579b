"""Stage 7: trained and untouched students answer the benchmarks; the verifier grades the answers."""
