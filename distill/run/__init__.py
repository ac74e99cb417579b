"""One execution: what it has at hand, and which of its stages are stale."""
