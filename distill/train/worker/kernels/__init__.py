"""Faster ways to compute parts of a model, each used only where it gives what the model's own gives."""
