"""Discovery on the LAN by multicast DNS (RFC 6762, RFC 6763): announce ourselves, find nodes of the same mesh.

Nothing is believed of what is found: an address only gets a hello, and who answers has to prove itself. Off by default, because
a host that guards itself announces nothing unasked, and because members remember every address; it is for the day on which all
addresses changed. It costs 4 MB and a few packets a minute.
"""

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloudisense.keys.identity import node_text
from cloudisense.mesh.address import reachable
from cloudisense.mesh.effects import Address

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf

SERVICE = "_cloudisense._udp.local."
PREFIX_LETTERS = 12
"""Of the mesh id: enough to leave other meshes alone, and not the id itself, which an invite carries."""
MAX_FOUND = 256
RESOLVE_MS = 3000


class LanDiscovery:
    """Announces ``address`` for ``node`` while it runs; ``found(address)`` is told of others of the same mesh, each once."""

    def __init__(self, mesh_id: bytes, node: bytes, address: Address, found: Callable[[Address], None]) -> None:
        self._mesh = node_text(mesh_id)[:PREFIX_LETTERS]
        self._name = f"{self._mesh}-{node_text(node)[:PREFIX_LETTERS]}.{SERVICE}"
        self._address = address
        self._found = found
        self._seen: set[Address] = {address}
        self._resolving: set[str] = set()

    async def start(self) -> None:
        """Announce and listen. ``OSError`` where this host has no multicast."""
        from zeroconf import IPVersion, ServiceInfo
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        host, port = self._address
        versions = IPVersion.V6Only if ":" in host else IPVersion.V4Only
        self._zeroconf = AsyncZeroconf(interfaces=[host], ip_version=versions)
        info = ServiceInfo(
            SERVICE, self._name, port, addresses=[ipaddress.ip_address(host).packed], server=self._name, properties={"mesh": self._mesh}
        )
        await (await self._zeroconf.async_register_service(info, cooperating_responders=True))
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, [SERVICE], handlers=[self._changed])

    async def close(self) -> None:
        """Say goodbye and stop."""
        await self._browser.async_cancel()
        await self._zeroconf.async_unregister_all_services()
        await self._zeroconf.async_close()

    def _changed(self, zeroconf: "Zeroconf", service_type: str, name: str, state_change: "ServiceStateChange") -> None:
        import asyncio

        from zeroconf import ServiceStateChange

        wanted = name.startswith(self._mesh + "-") and name != self._name
        if wanted and state_change is not ServiceStateChange.Removed and name not in self._resolving and len(self._resolving) < MAX_FOUND:
            self._resolving.add(name)
            task = asyncio.get_running_loop().create_task(self._resolve(name))
            task.add_done_callback(lambda _: self._resolving.discard(name))

    async def _resolve(self, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        info = AsyncServiceInfo(SERVICE, name)
        if not await info.async_request(self._zeroconf.zeroconf, RESOLVE_MS) or not info.port:
            return
        for host in info.parsed_addresses()[:4]:
            address = (host, info.port)
            if reachable(address) and address not in self._seen and len(self._seen) < MAX_FOUND:
                self._seen.add(address)
                self._found(address)
