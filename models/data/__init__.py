"""Frames to build from."""
