"""Environment variables that hold API keys: names alone, for clients and for the command line."""

KEY_VARIABLE = "DISTILL_API_KEY"
"""Environment variable with the key that client commands send to an endpoint."""

NO_KEY = "none"
"""Placeholder for the client library, where an endpoint requires no key."""

KEYS_VARIABLE = "DISTILL_API_KEYS"
"""Environment variable that may hold the text of a key file (from a Kubernetes secret)."""
