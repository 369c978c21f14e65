"""Speed measurements; each module prints one JSON line last."""
