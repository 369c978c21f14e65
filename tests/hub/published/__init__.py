"""Tiny sets written in the layouts others publish, from a seed."""
