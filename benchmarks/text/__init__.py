"""`make benchmark-text`: what text heads get right."""
