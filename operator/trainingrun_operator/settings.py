"""The settings of operator and dashboard: the only reader of the environment."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from trainingrun_operator.api.notification import EventType
from trainingrun_operator.core.defaults import Amount, Defaults
from trainingrun_operator.core.destinations import Destination, destinations_of
from trainingrun_operator.core.signature import keys_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails
    from pydantic_settings import PydanticBaseSettingsSource

PREFIX = "TRAININGRUN_"
DASHBOARD_PREFIX = f"{PREFIX}DASHBOARD_"
LOG_LEVEL: Final = f"{PREFIX}LOG_LEVEL"

FOUND: Final = frozenset({"metric_sources"})
"""What the environment does not set: it follows from what is installed."""

_EXPECTED: Final = "expected"
"""Type of an error whose message says what was expected; the value is quoted before it."""
_SENTENCE: Final = "sentence"
"""Type of an error whose message goes on after the variable's name; the value is not quoted."""


class SettingsError(Exception):
    """A setting has a value that cannot be used."""


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Port = Annotated[int, Field(ge=0)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]


class _Chosen(BaseSettings):
    """Made from arguments alone, so that no test and no caller reads the environment unawares; `_read` is what reads it."""

    # Without decoding: a value that is no JSON is refused in our own words, with the value.
    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", enable_decoding=False, hide_input_in_errors=True, validate_by_name=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' own signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is made with."""
        return (init_settings,)


class Settings(Defaults, _Chosen):
    """As the chart sets them; times in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    agent_quiet_seconds: Amount = Field(default=10.0, validation_alias=f"{PREFIX}AGENT_SETTLE_SECONDS")
    recheck_seconds: Amount = 30.0
    status_seconds: Amount = 60.0
    curve_seconds: Amount = 30.0
    list_seconds: Amount = 300.0
    run_selector: str = ""
    """Label selector of the TrainingRuns that this operator answers for; empty: all of them."""
    watch_namespaces: str = ""
    """Names of the namespaces whose runs it answers for, separated by commas; empty: all of them."""
    lease_name: str = "trainingrun-operator"
    """The Lease by which the replicas agree on one that acts. Operators that share it share their runs."""
    lease_namespace: str = ""
    """Empty: the pod's own, and outside of a pod `default`."""
    lease_seconds: Annotated[int, Field(ge=1)] = 15
    """The other replicas wait this long for a holder that does not renew the Lease."""
    pod_name: str = ""
    """The previous holder of the Lease with this pod name has ended when another operator starts in the pod. Empty: not in a pod."""
    webhook_url: str = Field(default="", repr=False)
    """Where events are posted to; empty: nowhere."""
    webhook_secret: str = Field(default="", repr=False)
    """What they are signed with: base64, usually after `whsec_`; two, divided by a space, while one replaces the other."""
    webhook_events: str = ",".join(EventType)
    """Types of the events that are posted, divided by commas."""
    port: Port = 8080
    log_level: LogLevel = "INFO"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that are watched, each once; empty: all of them."""
        return tuple(dict.fromkeys(name for part in self.watch_namespaces.split(",") if (name := part.strip())))

    @field_validator("release_nodes", mode="before")
    @classmethod
    def _true_or_false(cls, value: Any) -> Any:
        return _truth(value)

    @field_validator("agent_resources", mode="before")
    @classmethod
    def _json_object(cls, value: Any) -> Any:
        try:
            parsed = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise PydanticCustomError(_EXPECTED, "a JSON object")
        return parsed

    @field_validator("allowed_destinations", mode="before")
    @classmethod
    def _destinations(cls, value: Any) -> tuple[Destination, ...]:
        if isinstance(value, tuple):
            return value
        said = ""
        try:
            if isinstance(parsed := json.loads(value), list):
                return destinations_of(parsed)
        except ValueError as error:
            said = f" ({error})"
        raise PydanticCustomError(_EXPECTED, "a JSON list of destinations{said}", {"said": said})

    # Address and secret are never quoted: they may be what somebody must not read in a log.

    @field_validator("webhook_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not _is_address(value):
            raise PydanticCustomError(_SENTENCE, "is not an address: expected https://host/path")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _keys(cls, value: str) -> str:
        try:
            keys_of(value)
        except ValueError as error:
            message = "cannot be used ({why}): expected 24 to 64 random bytes in base64, after whsec_"
            raise PydanticCustomError(_SENTENCE, message, {"why": str(error)}) from None
        return value

    @field_validator("webhook_events")
    @classmethod
    def _event_types(cls, value: str) -> str:
        types = {kind.value for kind in EventType}
        if unknown := [one for one in value.split(",") if one not in types]:
            said = {"one": repr(unknown[0]), "types": ", ".join(EventType)}
            raise PydanticCustomError(_SENTENCE, "has {one}: expected some of {types}", said)
        return value


class DashboardSettings(_Chosen):
    """Of the web dashboard, as the chart sets them."""

    model_config = SettingsConfigDict(env_prefix=DASHBOARD_PREFIX)

    host: str = "127.0.0.1"
    """Address that it listens on; `*` is every one."""
    port: Port = 8081
    origins: tuple[str, ...] = ()
    """Where people reach it, `https://runs.example.com`, besides loopback as `kubectl port-forward` has it. A request for another host is refused."""
    anonymous: bool = False
    """Show runs to whoever comes, read-only, with the dashboard's own rights."""
    log_level: LogLevel = Field(default="INFO", validation_alias=LOG_LEVEL)

    @field_validator("anonymous", mode="before")
    @classmethod
    def _true_or_false(cls, value: Any) -> Any:
        return _truth(value)

    @field_validator("origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(_origin(one.strip()) for one in value.split(",") if one.strip())


Read = TypeVar("Read", Settings, DashboardSettings)


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read `TRAININGRUN_…` variables; what is absent keeps its default.

    Raises:
        SettingsError: with the variable, its value and what was expected.
    """
    return _read(Settings, environ)


def load_dashboard(environ: Mapping[str, str] | None = None) -> DashboardSettings:
    """Read `TRAININGRUN_DASHBOARD_…` variables, and `TRAININGRUN_LOG_LEVEL`; what is absent keeps its default.

    Raises:
        SettingsError: with the variable, its value and what was expected.
    """
    return _read(DashboardSettings, environ)


def _read(kind: type[Read], environ: Mapping[str, str] | None) -> Read:
    source = EnvSettingsSource(kind)
    # It compares names in lower case. An empty variable is an absent one.
    variables = os.environ if environ is None else environ
    source.env_vars = {name.lower(): text for name, text in variables.items() if text}
    try:
        return kind(**{name: value for name, value in source().items() if name not in FOUND})
    except ValidationError as error:
        raise SettingsError(_sentence(kind, error.errors(include_url=False)[0])) from None


def _sentence(kind: type[BaseSettings], error: ErrorDetails) -> str:
    """The variable, its value unless it may be a secret, and what was expected."""
    name = str(error["loc"][0])
    variable = name if name.startswith(PREFIX) else kind.model_config["env_prefix"] + name.upper()
    if error["type"] == _SENTENCE:
        return f"{variable} {error['msg']}"
    return f"{variable} is {error['input']!r}: expected {_expected(error)}"


def _expected(error: ErrorDetails) -> str:
    context = error.get("ctx") or {}
    match error["type"]:
        case "literal_error":
            return str(context["expected"]).replace("'", "")
        case "greater_than_equal":
            least = context["ge"]
            return f"{'a whole number' if isinstance(least, int) else 'a number'}, {least:g} or more"
        case "int_parsing" | "int_parsing_size" | "int_from_float":
            return "a whole number, 0 or more"
        case "float_parsing" | "finite_number":
            return "a number, 0 or more"
        case _:
            return error["msg"]


def _truth(value: Any) -> Any:
    """A boolean as the chart writes it; pydantic alone would also take `yes` and `1`."""
    if isinstance(value, bool):
        return value
    if value not in {"true", "false"}:
        raise PydanticCustomError(_EXPECTED, "true or false")
    return value == "true"


def _origin(text: str) -> str:
    """As a browser writes it: scheme and host in lower case, no default port, no path."""
    problem = PydanticCustomError(
        _SENTENCE,
        "has {text}: expected scheme and host as the address bar shows them, https://runs.example.com",
        {"text": repr(text)},
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


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
