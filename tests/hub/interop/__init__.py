"""Peers' objects in memory, and exports to their layouts."""
