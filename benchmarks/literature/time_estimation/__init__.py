"""Time of a network that was never run, from measured kernels."""
