"""Figures for people."""


def megabytes(size: int) -> str:
    """Bytes as decimal megabytes: ``45.1 MB``; gigabytes from one up."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def percent(share: float) -> str:
    """A share between 0 and 1: ``95 %``, never rounded up to a full one."""
    return f"{int(share * 100)} %"
