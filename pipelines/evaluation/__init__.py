"""What may be said of a version: measured cases to figures, each with its interval, its edge cases and its number."""
