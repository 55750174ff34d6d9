"""Bundles: what a deployment is made of, and who vouches for it."""
