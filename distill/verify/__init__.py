"""Stage 3, verify: the index of all verdicts, graded again where the verifier or a reference changed; an LLM judge."""
