"""Comparisons of policies, and their reports."""
