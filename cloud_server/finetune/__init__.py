"""Submodels for what devices see."""
