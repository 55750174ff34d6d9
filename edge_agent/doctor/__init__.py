"""Whether an agent works, or will work."""
