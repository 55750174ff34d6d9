"""Outbox: frames for the full model that are stored while there is no server, and are sent later."""
