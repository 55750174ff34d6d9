"""MQTT: the connection, the messages, and what to say when there is none."""
