"""Knock at a member's TCP port: what kind of silence is it? (DESIGN section 3.2)"""

import asyncio
import contextlib

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.tls import node_of
from cloudisense.mesh.effects import Address
from cloudisense.net.contexts import first_contact_context

CONNECT_SHARE = 0.4
"""Of the whole time, for TCP alone: a host that is up accepts or refuses within a round trip, agent or no agent."""


async def knock(node: bytes, address: Address, wait_s: float) -> str:
    """``silent``, ``refused``, ``mute`` or ``spoke``. Another node that answers at the address is no sign of life of this one."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(wait_s * CONNECT_SHARE):
            _, writer = await asyncio.open_connection(*address)
        async with asyncio.timeout(wait_s * (1 - CONNECT_SHARE)):
            await writer.start_tls(first_contact_context())
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return "spoke" if leaf and node_of(leaf) == node else "refused"
    except ConnectionRefusedError:
        return "refused"
    except (OSError, RemoteProtocolError):  # TimeoutError is one
        return "mute" if writer is not None else "silent"
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.transport.abort()
