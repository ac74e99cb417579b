"""Preflight checks: problems that would stop a run later, found before anything is paid for."""
