"""Each benchmark runs a peer beside us, in one run."""
