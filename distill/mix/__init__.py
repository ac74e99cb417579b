"""Stage 5, mix: turns verified traces into arms that all teach the same prompts."""
