"""Models by reference: weights, shapes, chat templates, API keys."""
