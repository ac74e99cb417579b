"""Tests without Ray and without a network."""
