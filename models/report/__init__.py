"""What a bundle is worth, for people."""
