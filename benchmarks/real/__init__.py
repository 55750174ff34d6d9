"""Comparison of policies on real cameras; see ``__main__``."""
