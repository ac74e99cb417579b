"""A run elsewhere: as a Ray job, on Kubernetes, and its students as an endpoint."""
