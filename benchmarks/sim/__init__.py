"""How fast the simulator is, and what a thousand nodes do in it."""
