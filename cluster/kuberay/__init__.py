"""Manifests for KubeRay's operator as plain dictionaries. Knows nothing of distillation."""
