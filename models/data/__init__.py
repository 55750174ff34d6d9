"""Frames and data sets that bundles are built from and evaluated on."""
