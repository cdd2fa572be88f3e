"""Figures for people."""

import pytest

from cloudisense.agent.words import megabytes, percent


@pytest.mark.parametrize(("size", "text"), [(0, "0.0 MB"), (45_100_000, "45.1 MB"), (10**9, "1.0 GB"), (3_140_000_000, "3.1 GB")])
def test_megabytes(size: int, text: str) -> None:
    assert megabytes(size) == text


@pytest.mark.parametrize(("share", "text"), [(0.0, "0 %"), (0.958, "95 %"), (0.9999, "99 %"), (1.0, "100 %")])
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text
