"""Stage 3: verdicts of all traces, graded again where the verifier changed; an optional judge."""
