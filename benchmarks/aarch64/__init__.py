"""The agent on an emulated Raspberry Pi: whether its wheels run there, and its models answer as they do here."""
