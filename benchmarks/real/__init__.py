"""Policies compared on real cameras with the user's own classifier; see ``__main__``."""
