"""Unit tests of reading rows."""
