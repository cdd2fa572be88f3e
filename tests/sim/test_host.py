"""A host whose files can really be removed."""

import random

import pytest

from cloudisense.agent.catalogue import Catalogue
from cloudisense.sim.host import MB, File, Host
from cloudisense.sim.world import PATHS


@pytest.fixture
def host() -> Host:
    host = Host("/vol", 64 * MB, PATHS)
    host.files = [
        File("/vol/cache", MB, 10),
        File("/vol/logs", 10 * MB, 10),
        File("/vol/scratch", MB, 7200),
        File("/vol/scratch", MB, 60, canary=True),
        File("/vol/data", MB, 10**7, canary=True),
    ]
    return host


def test_what_was_measured_is_what_happens(host: Host, actions) -> None:
    catalogue = Catalogue(actions, PATHS)
    for step in catalogue.steps_for("disk_full", "/vol"):
        before, measured = host.read().used, host.measure(step)
        verdict, _, freed = host.run(step, catalogue)
        assert verdict == "done"
        assert before - host.read().used == freed == measured.frees_bytes
    assert host.canaries() == 2
    assert host.read().used == MB * 2 + 3 * MB, "logs keep three tenths, canaries all"


def test_useless(host: Host, actions) -> None:
    catalogue = Catalogue(actions, PATHS)
    host.useless.add("clean_cache")
    step = catalogue.steps_for("disk_full", "/vol")[0]
    before = host.read()
    assert host.run(step, catalogue) == ("done", "1 files", MB), "it says so"
    assert host.read() == before, "and it is not so"


def test_what_is_not_in_the_catalogue_does_not_run(host: Host, actions) -> None:
    step = Catalogue(actions, PATHS).steps_for("disk_full", "/vol")[0]
    assert host.run(step, Catalogue((), PATHS))[0] == "refused"
    assert host.ran == [] and len(host.files) == 5


def test_fill(host: Host) -> None:
    host.fill("/vol/scratch", 0.95, random.Random(1))
    assert 0.95 <= host.read().used / host.size < 0.97
    assert host.read().inodes_used == len(host.files)
