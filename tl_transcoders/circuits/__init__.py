"""Circuits: nodes, patching, attribution."""
