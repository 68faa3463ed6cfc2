"""What the units and their settings file say agrees with each other, with the program and with the guide."""

import re
from dataclasses import fields

from consumer.settings import Settings, variable_of
from tests.box import CHECKOUT

FOLDER = CHECKOUT / "deploy/systemd"
DAEMON, SWEEP = ((FOLDER / f"{name}.service").read_text() for name in ("cabinet-recovery", "cabinet-recovery-sweep"))
DEFAULTS = {variable_of(setting): setting.default for setting in fields(Settings)}


def hardening(unit: str) -> str:
    return re.findall(r"^# What follows stands word for word.*\n((?:.+\n)+)", unit, re.MULTILINE)[0]


def test_both_services_are_hardened_alike() -> None:
    assert "DynamicUser=yes" in hardening(DAEMON)
    assert hardening(DAEMON) == hardening(SWEEP)


def test_the_manager_waits_longer_than_the_daemon_does() -> None:
    (stop_seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", DAEMON, re.MULTILINE)

    assert int(stop_seconds) > DEFAULTS["CABINET_RECOVERY_SHUTDOWN_GRACE_SECONDS"]


def test_the_settings_file_shows_settings_that_exist_with_their_defaults() -> None:
    shown = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (FOLDER / "cabinet-recovery.env").read_text(), re.MULTILINE))

    assert "DATABASE_URL" in shown
    for variable, value in shown.items():
        assert variable in DEFAULTS
        assert variable.endswith("DATABASE_URL") or value == str(DEFAULTS[variable] or "")


def test_the_guide_speaks_of_every_file() -> None:
    guide = (CHECKOUT / "docs/install.md").read_text()

    assert [file.name for file in FOLDER.iterdir() if f"deploy/systemd/{file.name}" not in guide] == []
