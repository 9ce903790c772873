"""The settings of operator and dashboard: the only reader of the environment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from trainingrun_operator.api.notification import EventType
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.destinations import destinations_of
from trainingrun_operator.core.signature import keys_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "TRAININGRUN_"
DASHBOARD_PREFIX = f"{PREFIX}DASHBOARD_"
_CHOICES: Final = {
    "auto_stop_action": ("Shadow", "Stop"),
    "agent_pull_policy": ("Always", "IfNotPresent", "Never"),
    "log_level": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
}
_EXPECTED: Final = {
    bool: "true or false",
    int: "a whole number, 0 or more",
    float: "a number, 0 or more",
    tuple: "a JSON list of destinations",
}


class SettingsError(Exception):
    """A setting has a value that cannot be used."""


@dataclass(frozen=True)
class Settings(Defaults):
    """As the chart sets them; times in seconds."""

    recheck_seconds: float = 30.0
    status_seconds: float = 60.0
    curve_seconds: float = 30.0
    list_seconds: float = 300.0
    run_selector: str = ""
    """Label selector of the TrainingRuns that this operator answers for; empty: all of them."""
    watch_namespaces: str = ""
    """Names of the namespaces whose runs it answers for, separated by commas; empty: all of them."""
    lease_name: str = "trainingrun-operator"
    """The Lease by which the replicas agree on one that acts. Operators that share it share their runs."""
    lease_namespace: str = ""
    """Empty: the pod's own, and outside of a pod `default`."""
    lease_seconds: int = 15
    """So long the others wait for a holder that says nothing."""
    pod_name: str = ""
    """Whoever held the Lease from the pod of this name is dead when another operator starts in it. Empty: not in a pod."""
    webhook_url: str = field(default="", repr=False)
    """Where events are posted to; empty: nowhere."""
    webhook_secret: str = field(default="", repr=False)
    """What they are signed with: base64, usually after `whsec_`; two, divided by a space, while one replaces the other."""
    webhook_events: str = ",".join(EventType)
    """Types of the events that are posted, divided by commas."""
    port: int = 8080
    log_level: str = "INFO"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that are watched, each once; empty: all of them."""
        return tuple(dict.fromkeys(name for part in self.watch_namespaces.split(",") if (name := part.strip())))


@dataclass(frozen=True)
class DashboardSettings:
    """Of the web dashboard, as the chart sets them."""

    host: str = "127.0.0.1"
    """Address that it listens on; `*` is every one."""
    port: int = 8081
    origins: tuple[str, ...] = ()
    """Where people reach it, `https://runs.example.com`, besides loopback as `kubectl port-forward` has it. A request for another host is refused."""
    anonymous: bool = False
    """Show runs to whoever comes, read-only, with the dashboard's own rights."""
    log_level: str = "INFO"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read `TRAININGRUN_…` variables; what is absent keeps its default.

    Raises:
        SettingsError: with the variable, its value and what was expected.
    """
    environ = os.environ if environ is None else environ
    settings = Settings(**_read(environ, PREFIX, Settings(), Settings.__dataclass_fields__))
    settings = replace(settings, log_level=settings.log_level.upper())
    for name in _CHOICES:
        _check_choice(name, getattr(settings, name))
    if settings.lease_seconds < 1:
        message = f"{PREFIX}LEASE_SECONDS is '{settings.lease_seconds}': expected a whole number, 1 or more"
        raise SettingsError(message)
    _check_webhook(settings)
    return settings


def load_dashboard(environ: Mapping[str, str] | None = None) -> DashboardSettings:
    """Read `TRAININGRUN_DASHBOARD_…` variables, and `TRAININGRUN_LOG_LEVEL`; what is absent keeps its default.

    Raises:
        SettingsError: with the variable, its value and what was expected.
    """
    environ = os.environ if environ is None else environ
    found = _read(environ, DASHBOARD_PREFIX, DashboardSettings(), ("host", "port", "anonymous"))
    if origins := environ.get(f"{DASHBOARD_PREFIX}ORIGINS", ""):
        found["origins"] = tuple(_origin(one.strip()) for one in origins.split(",") if one.strip())
    level = (environ.get(f"{PREFIX}LOG_LEVEL") or "INFO").upper()
    _check_choice("log_level", level)
    return DashboardSettings(**found, log_level=level)


def _read(environ: Mapping[str, str], prefix: str, defaults: Any, names: Iterable[str]) -> dict[str, Any]:
    """What is said of these, parsed as their defaults are."""
    said = {name: environ.get(prefix + name.upper(), "") for name in names}
    return {name: _parse(prefix + name.upper(), text, getattr(defaults, name)) for name, text in said.items() if text}


def _check_choice(name: str, chosen: str) -> None:
    if chosen not in (choices := _CHOICES[name]):
        expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise SettingsError(f"{PREFIX}{name.upper()} is {chosen!r}: expected {expected}")


def _origin(text: str) -> str:
    """As a browser writes it: scheme and host in lower case, no default port, no path."""
    problem = SettingsError(
        f"{DASHBOARD_PREFIX}ORIGINS has {text!r}: expected scheme and host as the address bar shows them, https://runs.example.com"
    )
    try:
        split = urlsplit(text.lower().rstrip("/"))
        port = split.port
    except ValueError:
        raise problem from None
    if split.scheme not in {"http", "https"} or not split.hostname or split.path or split.query or split.username:
        raise problem
    usual = {"http": 80, "https": 443}[split.scheme]
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    return f"{split.scheme}://{host}" + (f":{port}" if port not in {None, usual} else "")


def _check_webhook(settings: Settings) -> None:
    """Address and secret are never quoted: they may be what somebody must not read in a log."""
    types = {kind.value for kind in EventType}
    if unknown := [one for one in settings.webhook_events.split(",") if one not in types]:
        raise SettingsError(f"{PREFIX}WEBHOOK_EVENTS has {unknown[0]!r}: expected some of {', '.join(EventType)}")
    if settings.webhook_url and not _is_address(settings.webhook_url):
        raise SettingsError(f"{PREFIX}WEBHOOK_URL is not an address: expected https://host/path")
    try:
        keys_of(settings.webhook_secret)
    except ValueError as error:
        expected = "24 to 64 random bytes in base64, after whsec_"
        raise SettingsError(f"{PREFIX}WEBHOOK_SECRET cannot be used ({error}): expected {expected}") from None


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _parse(variable: str, text: str, default: Any) -> Any:
    try:
        match default:
            case bool() if text in ("true", "false"):
                return text == "true"
            case bool():
                problem = None
            case int() | float() if (number := type(default)(text)) >= 0 and isfinite(number):
                return number
            case str():
                return text
            case dict() if isinstance(parsed := json.loads(text), dict):
                return parsed
            case tuple() if isinstance(parsed := json.loads(text), list):
                return destinations_of(parsed)
            case _:
                problem = None
    except ValueError as error:
        problem = error
    expected = _EXPECTED.get(type(default), "a JSON object")
    said = f" ({problem})" if isinstance(default, tuple) and problem is not None else ""
    message = f"{variable} is {text!r}: expected {expected}{said}"
    raise SettingsError(message) from problem
