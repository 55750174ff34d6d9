"""Simulated devices, links and servers, and child processes of a live run."""
