"""Serves models behind one OpenAI-compatible endpoint on Ray Serve; its clients. Knows models, not recipes."""
