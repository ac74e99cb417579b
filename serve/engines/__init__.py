"""vLLM engines under Ray, with the private names of ray.llm that they need; no other folder touches those."""
