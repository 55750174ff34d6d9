"""Explanations of decisions: why a frame was answered as it was, from the decision log or from a running camera."""
