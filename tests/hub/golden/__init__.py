"""What peers compute from the sets of `tests.hub.published`: scripts for their environments, and their outputs."""
