"""Bundles: models, manifest and signature."""
