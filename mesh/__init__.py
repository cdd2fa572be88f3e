"""Knowing each other: membership, feeds, delivery. No I/O, no clock."""
