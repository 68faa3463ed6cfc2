"""Settings: from the environment, checked once, documented where they are defined."""

import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from consumer.errors import SettingsError

if TYPE_CHECKING:
    from db.connect import Address

PREFIX = "CABINET_RECOVERY_"
LISTENER_VARIABLE = PREFIX + "LISTENER_DATABASE_URL"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "json", "console")
LOOPBACK = "127.0.0.1"
ENDPOINT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*)):([0-9]{1,5})")


class Endpoint(NamedTuple):
    """Where something is served; port 0 is any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint | None":
        """Take host:port, [IPv6 address]:port or :port, which is on loopback; None where it is none of these."""
        found = ENDPOINT.fullmatch(text)
        if found is None or int(found[3]) >= 1 << 16:
            return None
        return cls(found[1] or found[2] or LOOPBACK, int(found[3]))


def _number(default: int, what: str, least: int, most: int) -> Any:
    return field(default=default, metadata={"help": what, "least": least, "most": most})


def _choice(default: str, what: str, choices: tuple[str, ...]) -> Any:
    return field(default=default, metadata={"help": what, "choices": choices})


def _path(what: str) -> Any:
    return field(default="", metadata={"help": what, "path": True})


@dataclass(frozen=True)
class Settings:
    """What can be set. Each name is a variable of the environment: CABINET_RECOVERY_ and the name in capitals."""

    database: "Address" = field(
        metadata={
            "help": "the database: a libpq URL or keyword DSN, SQLAlchemy's forms are understood; or, instead, "
            "DATABASE_URL_FILE: a file that holds it, reread for each connection"
        }
    )
    listener_database: "Address | None" = field(
        default=None,
        metadata={
            "help": "the server's own address, for listener and keeper, where the database's is a pooler's; "
            f"or, instead, {LISTENER_VARIABLE}_FILE"
        },
    )
    sweep_interval_seconds: int = _number(
        60, "between two periodic sweeps of the daemon, jittered by a tenth", 1, 86_400
    )
    degraded_sweep_interval_seconds: int = _number(
        5, "the same while the listener is not proved to hear what is sent", 1, 3_600
    )
    proof_interval_seconds: int = _number(10, "between two proofs that the listener hears what is sent", 1, 3_600)
    proof_timeout_seconds: int = _number(5, "for what is sent as proof to arrive", 1, 3_600)
    batch_size: int = _number(500, "leads in one transaction at most", 1, 500)
    inbox_size: int = _number(10_000, "notifications kept; beyond it the daemon sweeps instead", 1, 1_000_000)
    reconcile_slice: int = _number(400, "leads looked at by state in each periodic sweep, in turn", 1, 1_000_000)
    max_attempts: int = _number(10, "after so many data errors a lead is parked", 1, 1_000)
    lock_timeout_ms: int = _number(100, "longest wait for a row that somebody else holds", 1, 900)
    statement_timeout_seconds: int = _number(10, "longest statement of a batch", 1, 3_600)
    reconnect_max_seconds: int = _number(10, "longest pause between two attempts to connect", 1, 3_600)
    shutdown_grace_seconds: int = _number(20, "for the batch in flight, once asked to stop", 1, 3_600)
    outage_log_interval_seconds: int = _number(30, "between two log lines about one outage", 1, 86_400)
    log_level: str = _choice("info", "what is logged", LOG_LEVELS)
    log_level_file: str = _path("a file that, where there is one, names the level instead; SIGHUP rereads it")
    log_format: str = _choice("auto", "auto: console on a terminal, else json", LOG_FORMATS)
    metrics_address: Endpoint | None = field(
        default=None,
        metadata={"help": "where the daemon serves /metrics, /livez and /readyz; nowhere unless set", "endpoint": True},
    )
    metrics_interval_seconds: int = _number(15, "between two looks of the metrics at the database", 1, 3_600)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read every setting; raises SettingsError, or db.connect.InvalidAddress, for the first that is wrong."""
        database = _address(environment, "DATABASE_URL")
        if database is None:
            raise SettingsError(
                "DATABASE_URL is not set: give the database's address, such as "
                "postgresql://user:password@host:5432/database; to look around without one, run `consumer demo`"
            )
        given: dict[str, Any] = {
            setting.name: _checked(setting, text.strip())
            for setting in fields(cls)
            if (text := environment.get(variable_of(setting))) is not None and not is_address(setting)
        }
        return cls(database=database, listener_database=_address(environment, LISTENER_VARIABLE), **given)

    def current_log_level(self) -> str:
        """What the file of the level names now, or else `log_level`; raises SettingsError where that is no level."""
        try:
            named = Path(self.log_level_file or os.devnull).read_text(encoding="utf-8").strip().lower()
        except FileNotFoundError:
            return self.log_level
        except (OSError, ValueError) as error:  # no text, or no path
            raise SettingsError(f"{self.log_level_file} cannot be read: {error}") from error
        if named and named not in LOG_LEVELS:
            raise SettingsError(f"{self.log_level_file} takes {', '.join(LOG_LEVELS)}, not {named[:40]!r}")
        return named or self.log_level


def variable_of(setting: Field[Any]) -> str:
    """The environment variable of a setting."""
    if setting.name == "listener_database":
        return LISTENER_VARIABLE
    return "DATABASE_URL" if setting.name == "database" else PREFIX + setting.name.upper()


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What looks like a setting and is none: misspelt, or of another version."""
    known = {LISTENER_VARIABLE + "_FILE", *map(variable_of, fields(Settings))}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def _address(environment: Mapping[str, str], variable: str) -> "Address | None":
    """The address in a variable, or in the file that the variable with _FILE behind its name names."""
    from db.connect import Address  # noqa: PLC0415 # heavy, and --help reads this module

    text, path = environment.get(variable, "").strip(), environment.get(f"{variable}_FILE", "").strip()
    if text and path:
        raise SettingsError(f"both {variable} and {variable}_FILE are set: give one of them")
    if path:
        return Address.read(path, f"{variable}_FILE")
    return Address.parse(text, variable) if text else None


def is_address(setting: Field[Any]) -> bool:
    return setting.name in {"database", "listener_database"}


def allowed(setting: Field[Any]) -> str:
    """What a setting takes, in words."""
    if "choices" in setting.metadata:
        return ", ".join(setting.metadata["choices"])
    if "path" in setting.metadata:
        return "a path"
    if "endpoint" in setting.metadata:
        return "host:port, or :port on loopback"
    return f"a whole number from {setting.metadata['least']} to {setting.metadata['most']}"


def _checked(setting: Field[Any], text: str) -> int | str | Endpoint | None:
    if "path" in setting.metadata:
        return text
    if "endpoint" in setting.metadata:
        if not text:
            return None
        if endpoint := Endpoint.parse(text):
            return endpoint
    elif "choices" in setting.metadata:
        if text.lower() in setting.metadata["choices"]:
            return text.lower()
    elif text.isascii() and text.isdigit() and len(text) < 10:  # noqa: PLR2004 # more digits than any maximum
        number = int(text)
        if setting.metadata["least"] <= number <= setting.metadata["most"]:
            return number
    raise SettingsError(f"{variable_of(setting)} takes {allowed(setting)}, not {text[:40]!r}")
