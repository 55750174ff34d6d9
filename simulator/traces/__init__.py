"""Traces: recorded model outputs of a stream, and the replay of a device's decision log."""
