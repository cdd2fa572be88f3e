"""Addresses as claims may carry them and as people read them."""

import ipaddress

from cloudisense.mesh.effects import Address


def reachable(address: Address) -> bool:
    """Can another host send to this? A link-local address means nothing on another link, and a name would need a look-up."""
    host, port = address
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return False
    return 0 < port < 65536 and not (parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified or "%" in host)


def address_text(address: Address) -> str:
    """``host:port``, or ``[ipv6]:port`` (RFC 3986, section 3.2.2)."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
