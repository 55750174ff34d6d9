"""Diagnostics, health and watchdog of the agent."""
