"""This host's disks: read them, say what an action would free, and do it without leaving the declared folders."""
