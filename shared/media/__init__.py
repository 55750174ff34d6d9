"""Pictures, videos and recorded streams."""
