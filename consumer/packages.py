"""The service's packages have names that a host's program may have as well."""

import importlib.util
from pathlib import Path

from consumer.errors import SettingsError


def require_own_packages() -> None:
    """Raise SettingsError unless `db` and `migrations` come from where `consumer` does."""
    home = Path(__file__).parents[1]
    for name in ("db", "migrations"):
        found = importlib.util.find_spec(name)
        origin = Path(found.origin) if found is not None and found.origin is not None else None
        if origin is None or origin.parents[1] != home:
            raise SettingsError(
                f"the package {name} was found in {origin or 'no place'}, not beside the service's own in {home}: "
                "call the console script of the service's own virtual environment by its path"
            )
