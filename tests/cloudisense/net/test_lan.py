"""Multicast DNS for real, on loopback."""

import asyncio

from cloudisense.net.lan import LanDiscovery

MESH, OTHER_MESH = b"\x01" * 32, b"\x02" * 32
A, B, C = b"\x0a" * 32, b"\x0b" * 32, b"\x0c" * 32


async def test_nodes_of_one_mesh_find_each_other_and_leave_others_alone() -> None:
    found: dict[str, list[tuple[str, int]]] = {"a": [], "b": [], "c": []}
    given = (("a", MESH, A, 40001), ("b", MESH, B, 40002), ("c", OTHER_MESH, C, 40003))
    nodes = [LanDiscovery(mesh, node, ("127.0.0.1", port), found[name].append) for name, mesh, node, port in given]
    for node in nodes:
        await node.start()
    try:
        async with asyncio.timeout(10):
            while not (found["a"] and found["b"]):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
    finally:
        for node in nodes:
            await node.close()
    assert found == {"a": [("127.0.0.1", 40002)], "b": [("127.0.0.1", 40001)], "c": []}
