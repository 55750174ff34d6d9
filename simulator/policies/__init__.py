"""The policies that a comparison runs."""
