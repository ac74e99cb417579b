"""vLLM engines under Ray Serve; the only folder that touches ray.llm._internal."""
