"""Caches between the layers of a full model: where it can be cut, what each cache says, and which to have."""
