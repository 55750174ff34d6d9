"""Outputs of answers: JSON lines, logs, metrics, videos, web pages, MQTT."""
