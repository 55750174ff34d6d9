"""Where answers go: lines, logs, metrics, videos, pages, MQTT."""
