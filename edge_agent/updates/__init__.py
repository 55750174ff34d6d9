"""Model updates: download, probe, trial, commit and rollback."""
