"""What a broker, a server and its devices need to trust one another."""
