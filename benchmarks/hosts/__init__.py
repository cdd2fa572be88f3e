"""Hosts made of namespaces on one Linux machine, joined by a bridge: real processes, sockets, disks and cuts.

    with World(3) as world:
        world.hosts[0].spawn(["cloudisense", "up", ...])
        world.partition(world.hosts[0], world.hosts[1], one_way=True)

Root only. Nothing of the machine's own network is touched, and nothing is left behind: every process of a host dies with
its namespace, the namespace with the harness, and folders and cgroups of a harness that was killed are removed by the next one.
"""

from benchmarks.hosts.host import Host
from benchmarks.hosts.needs import missing
from benchmarks.hosts.output import Line, Output, wait_for
from benchmarks.hosts.world import World

__all__ = ["Host", "Line", "Output", "World", "missing", "wait_for"]
