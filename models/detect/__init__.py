"""Builds bundles of detectors: labels from a full detector, own small detectors, and their bundle."""
