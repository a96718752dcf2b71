"""What the admin decides about the web app, from the environment."""

import base64
import hashlib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from trainingtask_api.names import ENV_HISTORY_URL
from trainingtask_api.task import describe_errors

_SHORTEST_KEY = 32


class Auth(StrEnum):
    """Who may look: people whom Kubernetes knows, each at their namespaces; or anybody at everything."""

    KUBERNETES = "kubernetes"
    NONE = "none"


class Settings(BaseModel):
    """The web app's settings; the environment variable of each is its alias."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    history_url: SecretStr = Field(alias=ENV_HISTORY_URL, description="The history, read only.")
    auth: Auth = Field(
        Auth.KUBERNETES,
        alias="TRAININGTASK_WEB_AUTH",
        description="'none' shows everything to everybody and creates nothing: for a laptop.",
    )
    session_key_file: Path | None = Field(
        None,
        alias="TRAININGTASK_WEB_SESSION_KEY_FILE",
        description="A file of at least 32 secret characters, the same for all replicas. Default: a key for each process, so that its sessions end with it.",
    )
    secure_cookie: bool = Field(
        True,
        alias="TRAININGTASK_WEB_SECURE_COOKIE",
        description="false only where browsers reach the app by plain http, as at http://localhost.",
    )
    namespace: str = Field(
        "default",
        alias="TRAININGTASK_WEB_NAMESPACE",
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        description="Where POST / creates tasks when the request does not say.",
    )
    host: str = Field("0.0.0.0", alias="TRAININGTASK_WEB_HOST")  # noqa: S104 - in a pod, everybody who may reach it
    port: int = Field(8000, alias="TRAININGTASK_WEB_PORT", ge=1, le=65_535)
    threads: int = Field(
        5,
        alias="TRAININGTASK_WEB_THREADS",
        ge=1,
        le=64,
        description="Requests at once. For more than 5 the history opens and closes connections all the time.",
    )


class BadSettings(Exception):  # noqa: N818 - reads as what it is
    """The environment does not make settings; the message says why, without values."""


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings that the environment names.

    Raises
    ------
    BadSettings
    """
    try:
        return Settings.model_validate({name: value for name, value in environment.items() if value})
    except ValidationError as error:
        raise BadSettings(describe_errors(error)) from None


def session_key(settings: Settings) -> bytes | None:
    """Return the key that sessions are encrypted with, None when each process makes its own.

    Raises
    ------
    BadSettings
    """
    file = settings.session_key_file
    if file is None:
        return None
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise BadSettings(f"the session key cannot be read: {error}") from None
    if len(secret) < _SHORTEST_KEY:
        raise BadSettings(f"the session key in {file} is too short: it takes at least {_SHORTEST_KEY} characters")
    return base64.urlsafe_b64encode(hashlib.sha256(secret).digest())
