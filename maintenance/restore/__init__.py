"""A dump becomes a catalog again: for good, or in a scratch database to see that it would."""
