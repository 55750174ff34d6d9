"""What a comparison found."""
