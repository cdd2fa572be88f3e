"""One full disk, three agents: the whole flow on real processes, sockets and a real file system."""
