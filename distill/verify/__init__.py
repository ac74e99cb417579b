"""Stage 3, verify: the index of all verdicts, graded again where the verifier changed; an optional LLM judge."""
