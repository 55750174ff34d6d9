"""Feature compression: a device runs the first layers of the full model and sends their compressed output."""
