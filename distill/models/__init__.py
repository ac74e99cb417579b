"""Models by reference: local folders with weights, sizes, chat templates, API keys of endpoints."""
