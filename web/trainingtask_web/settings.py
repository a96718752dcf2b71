"""The settings of the web app, from the environment."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from trainingtask_api.names import ENV_HISTORY_URL, NAMESPACE_PATTERN
from trainingtask_api.task import describe_errors


def _split_commas(value: Any) -> Any:
    return [part.strip().lower() for part in value.split(",")] if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]


class AuthMode(StrEnum):
    """How requests are authenticated: by Kubernetes, or not at all, with every run visible."""

    KUBERNETES = "kubernetes"
    NONE = "none"


class Settings(BaseModel):
    """The web app's settings; the environment variable of each is its alias."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    history_url: SecretStr = Field(alias=ENV_HISTORY_URL, description="The history, read only.")
    auth: AuthMode = Field(
        AuthMode.KUBERNETES,
        alias="TRAININGTASK_WEB_AUTH",
        description="'none' shows everything to everybody and creates nothing: for a laptop.",
    )
    hosts: CommaSeparated = Field(
        ("localhost", "127.0.0.1", "::1"),
        alias="TRAININGTASK_WEB_HOSTS",
        description="The names, separated by commas, by which browsers and programs reach it; no other Host is served.",
    )
    base_path: str = Field(
        "",
        alias="TRAININGTASK_WEB_BASE_PATH",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="The path below which browsers reach it, such as /trainingtask; '' for the whole host.",
    )
    trusted_proxies: CommaSeparated = Field(
        (),
        alias="TRAININGTASK_WEB_TRUSTED_PROXIES",
        description="Addresses or networks, separated by commas, whose X-Forwarded-For and -Proto are believed.",
    )
    secure_cookie: bool = Field(
        True,
        alias="TRAININGTASK_WEB_SECURE_COOKIE",
        description="false where browsers come by plain http and refuse the cookie: under any name but localhost, and "
        "Safari also at http://localhost.",
    )
    namespace: str = Field(
        "default",
        alias="TRAININGTASK_WEB_NAMESPACE",
        pattern=NAMESPACE_PATTERN,
        description="Where POST / creates tasks when the request does not say.",
    )
    host: str = Field("0.0.0.0", alias="TRAININGTASK_WEB_HOST")  # noqa: S104 - all interfaces of the pod
    port: int = Field(8000, alias="TRAININGTASK_WEB_PORT", ge=1, le=65_535)
    threads: int = Field(
        5,
        alias="TRAININGTASK_WEB_THREADS",
        ge=1,
        le=64,
        description="Requests at once. For more than 5 the history opens and closes connections all the time.",
    )


class SettingsError(Exception):
    """The environment holds no valid settings; the message has no secret values."""


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings of the environment.

    Raises
    ------
    SettingsError
    """
    try:
        return Settings.model_validate({name: value for name, value in environment.items() if value})
    except ValidationError as error:
        raise SettingsError(describe_errors(error)) from None
