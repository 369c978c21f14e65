"""What peers' own packages compute with those sets."""
