"""Devices, links and servers on virtual time, and their processes."""
