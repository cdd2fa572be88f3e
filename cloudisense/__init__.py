"""CloudiSENSE: agents that keep edge hosts and air-gapped clusters alive by themselves."""

__version__ = "0.1.0"
