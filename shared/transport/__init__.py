"""MQTT: addresses, connection, messages and error messages."""
