"""What to do about trouble: detect, coordinate, plan, gate, verify, remember. No I/O, no clock."""
