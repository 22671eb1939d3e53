"""What text heads say of texts."""
