"""Stage 1: loads prompts and benchmarks, removes near-duplicates and decontaminates the prompts."""
