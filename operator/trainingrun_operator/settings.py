"""The settings of operator and dashboard, read from variables of the environment."""

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

FOUND: Final = frozenset({"installation", "metric_sources"})
"""Fields that the environment does not set, because they depend on the installed packages and on the Lease."""

_EXPECTED: Final = "expected"
"""Type of an error whose message is the expected value; the actual value is quoted before it."""
_SENTENCE: Final = "sentence"
"""Type of an error whose message follows the variable's name; the value is not quoted."""


class SettingsError(Exception):
    """A setting has an invalid value."""


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Port = Annotated[int, Field(ge=0)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]


class _Chosen(BaseSettings):
    """Settings made from arguments alone; only `_read` reads the environment."""

    # Without decoding, so that invalid JSON gets our own message with the value.
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
        """Use the arguments only."""
        return (init_settings,)


class Settings(Defaults, _Chosen):
    """Settings of the operator, as the chart sets them; times in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    agent_quiet_seconds: Amount = Field(default=10.0, validation_alias=f"{PREFIX}AGENT_SETTLE_SECONDS")
    recheck_seconds: Amount = 30.0
    status_seconds: Amount = 60.0
    curve_seconds: Amount = 30.0
    list_seconds: Amount = 300.0
    run_selector: str = ""
    """Label selector of the TrainingRuns that this operator handles; empty: all."""
    watch_namespaces: str = ""
    """Namespaces whose runs it handles, separated by commas; empty: all."""
    lease_name: str = "trainingrun-operator"
    """The Lease that elects the replica that acts. Operators with the same Lease share their runs."""
    lease_namespace: str = ""
    """Empty: the pod's namespace; outside a pod, `default`."""
    lease_seconds: Annotated[int, Field(ge=1)] = 15
    """Time after which another replica takes a Lease that is not renewed."""
    pod_name: str = ""
    """Name of the pod. A holder of the Lease with this pod name has ended when another process starts. Empty: not in a pod."""
    webhook_url: str = Field(default="", repr=False)
    """URL for events; empty: none are sent."""
    webhook_secret: str = Field(default="", repr=False)
    """Signing secret: base64, usually after `whsec_`; during a rotation two, separated by a space."""
    webhook_events: str = ",".join(EventType)
    """Types of the events to send, separated by commas."""
    port: Port = 8080
    log_level: LogLevel = "INFO"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The watched namespaces, each once; empty: all."""
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

    @field_validator("gpu_exporter")
    @classmethod
    def _page(cls, value: str) -> str:
        if value and not (_is_address(value) and value.startswith("http://")):
            raise PydanticCustomError(_EXPECTED, "the address of a page, http://host:port/path")
        return value

    # Messages never contain address and secret, because logs may be read by others.

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
            raise PydanticCustomError(_SENTENCE, "has {one}: expected one or more of {types}", said)
        return value


class DashboardSettings(_Chosen):
    """Settings of the web dashboard, as the chart sets them."""

    model_config = SettingsConfigDict(env_prefix=DASHBOARD_PREFIX)

    host: str = "127.0.0.1"
    """Address to listen on; `*`: all."""
    port: Port = 8081
    origins: tuple[str, ...] = ()
    """Its public origins, such as `https://runs.example.com`, besides loopback for `kubectl port-forward`. Requests for other hosts are refused."""
    anonymous: bool = False
    """Show runs without authentication, read-only, with the dashboard's own permissions."""
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
    """Read `TRAININGRUN_…` variables; an absent one keeps its default.

    Raises:
        SettingsError: with the variable, its value and what was expected.
    """
    return _read(Settings, environ)


def load_dashboard(environ: Mapping[str, str] | None = None) -> DashboardSettings:
    """Read `TRAININGRUN_DASHBOARD_…` variables, and `TRAININGRUN_LOG_LEVEL`; an absent one keeps its default.

    Raises:
        SettingsError: with the variable, its value and what was expected.
    """
    return _read(DashboardSettings, environ)


def _read(kind: type[Read], environ: Mapping[str, str] | None) -> Read:
    source = EnvSettingsSource(kind)
    # pydantic-settings compares names in lower case. An empty variable counts as absent.
    variables = os.environ if environ is None else environ
    source.env_vars = {name.lower(): text for name, text in variables.items() if text}
    try:
        return kind(**{name: value for name, value in source().items() if name not in FOUND})
    except ValidationError as error:
        raise SettingsError(_sentence(kind, error.errors(include_url=False)[0])) from None


def _sentence(kind: type[BaseSettings], error: ErrorDetails) -> str:
    """Return the message: the variable, its value unless it may be secret, and what was expected."""
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
    """Parse a boolean as the chart writes it; pydantic would also accept `yes` and `1`."""
    if isinstance(value, bool):
        return value
    if value not in {"true", "false"}:
        raise PydanticCustomError(_EXPECTED, "true or false")
    return value == "true"


def _origin(text: str) -> str:
    """Normalize an origin as browsers do: scheme and host in lower case, no default port, no path."""
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
