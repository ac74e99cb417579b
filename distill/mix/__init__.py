"""Stage 4, the mix: from verified traces to arms that teach the same prompts."""
