"""Calibration of models and certification of bundles on held-out footage."""
