"""Tiny sets in the layouts that others publish, written from a seed."""
