"""Preflight: everything that would stop a run later, found before anything is paid for."""
