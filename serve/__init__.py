"""Models behind one OpenAI-compatible address on Ray Serve, and rows through them. Knows models, not recipes."""
