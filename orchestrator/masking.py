"""Secrets in URLs, masked in everything that infoaug shows or keeps.

The config in memory has them: the store and the tracking server are opened with it.
"""

import re
from typing import Any

MASK = "***"
_URL_USER = re.compile(
    r"\b([a-z][a-z0-9+.-]*://)"
    r"([^/?#\s]+"  # up to the last @ before the path
    r"|[^/:@\s]+:(?!\d+(?![\w@]))[^@\s]*)@",  # an AWS key with a slash, but no port
    re.IGNORECASE,
)
_QUERY = re.compile(
    r"(?<=[?&;])([\w.%-]*(?:secret|token|pass|pwd|signature|credential|(?:access|account|api|private|shared).?key|odbc_con)"
    r"[\w.%-]*|sig|key)=[^&;#\s'\"<>]+",
    re.IGNORECASE,
)
# In these, a name before the @ without a password is a container or a host's user.
_NAMED = ("abfs", "adl", "hdfs", "sftp", "ssh", "wasb")


def without_secrets(text: str) -> str:
    """Text in which the users, passwords, keys and signatures of URLs are `***`."""
    return _QUERY.sub(rf"\1={MASK}", _URL_USER.sub(_masked_user, text))


def is_masked(url: str) -> bool:
    """Whether the secrets of a URL are masked: it comes from a config that infoaug kept."""
    return f"{MASK}@" in url or f"={MASK}" in url


def masked(values: Any) -> Any:
    """A copy of nested settings in which the secrets of every text are masked."""
    if isinstance(values, dict):
        return {key: masked(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [masked(value) for value in values]
    return without_secrets(values) if isinstance(values, str) else values


def _masked_user(found: re.Match[str]) -> str:
    scheme, user = found[1], found[2]
    if ":" not in user and scheme.lower().startswith(_NAMED):
        return found[0]
    return f"{scheme}{MASK}@"
