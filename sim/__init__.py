"""The same nodes in another world: virtual clock, network, disk and hosts in one process."""
