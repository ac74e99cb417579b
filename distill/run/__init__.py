"""One execution of a recipe: its context, its pools, and which of its stages are stale."""
