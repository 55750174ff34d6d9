"""What a bundle is certified for."""
