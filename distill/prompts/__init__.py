"""Stage 1: prompts and benchmarks, cleaned and decontaminated."""
