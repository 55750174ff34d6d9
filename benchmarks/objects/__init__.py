"""Comparison of policies for detectors on a video; see ``__main__``."""
