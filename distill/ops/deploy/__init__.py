"""Deploys a run as a Ray job or on Kubernetes, and its students as an endpoint."""
