"""Ray on Kubernetes: what KubeRay's operator takes, written as plain dictionaries. Knows nothing of distillation."""
