"""Every published layout against the maths, the peer and hostile files."""
