"""Newer models: fetched, probed, tried and kept, without harm."""
