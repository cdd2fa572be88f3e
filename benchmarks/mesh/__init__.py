"""The mesh beside serf: the same hosts, the same cuts, the same clock. See ``python -m benchmarks.mesh --help``."""
