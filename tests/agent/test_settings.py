"""What ships is careful."""

from cloudisense.agent.settings import Settings, default_mode


def test_a_fresh_install_does_only_what_can_be_undone() -> None:
    assert {risk for risk, mode in default_mode().items() if mode == "act"} == {"observe", "reversible"}
    assert Settings().mode is not Settings().mode, "one host's mode is not another's"


def test_every_incident_is_known_to_a_human_within_15_minutes() -> None:
    settings = Settings()
    assert settings.incident_ms < 15 * 60_000
    assert settings.seek_ms < settings.incident_ms
    assert settings.ungranted_ms < settings.seek_ms
