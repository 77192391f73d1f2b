"""Every setting of a server, checked: where it listens, whom it lets in, and how much of anything it takes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from gptwo.base.errors import ConfigError

LogFormat = Literal["json", "text"]
LOG_FORMATS: tuple[LogFormat, ...] = ("json", "text")

# As RFC 9110 has an origin, or all of them.
_ORIGIN = re.compile(r"\*|https?://[A-Za-z0-9.\-\[\]:]+")
# A name is shown, logged and asked for by clients; it is never a path.
_MODEL_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,128}")
_MOST_CONNECTIONS = 100_000
REFUSED_AT_ONCE = 64
"""Connections that are told that there is no place for them, beside the ``max_connections`` that have one."""

VARIABLES = ("GPTWO_API_KEY", "GPTWO_API_KEYS")
"""Of the environment; the second has several, with commas between them."""

# What a header can carry as one word.
_KEY = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What ``gptwo serve`` was told; times in seconds, sizes in bytes. ``ConfigError`` for what is not possible."""

    model_name: str = "gptwo"
    """The id that clients see and may ask for."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes one that is free."""

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Any of them opens every route; none: no key is asked for."""
    cors_origins: tuple[str, ...] = ()
    """Web pages that may call the server from a browser; none: CORS is off."""

    slots: int = 32
    """Texts that are written at the same time."""
    queue: int = 128
    """Texts that wait for a slot; one more is refused with 429."""
    kv_tokens: int | None = None
    """Tokens whose keys and values are held in memory; None: ``kv_memory_bytes``, or what ``kv_budget`` finds right."""
    kv_memory_bytes: int | None = None
    force: bool = False
    """Begin though the plan says that the memory is too small."""
    prefix_cache: bool = True
    """Keep keys and values of texts that have ended until their memory is needed, for prompts that begin alike."""

    explain: bool = True
    """Whether ``/explain`` answers: it runs the model a second time, by the reference."""
    explain_queue: int = 8
    """Explanations that may wait for the one being made; one more is refused with 429."""
    explain_memory_bytes: int = 1 << 30
    """Of all explanations that are kept together; the last one always is."""

    max_prompt_tokens: int | None = None
    """Of one prompt; None: the model's context."""
    max_n: int = 16
    max_best_of: int = 16
    """Choices that are written for one prompt; the best ``n`` of them are sent."""
    max_total_tokens: int = 65_536
    """Of one request: Σ over its prompts of prompt tokens + best_of · max_tokens. 64 full contexts of GPT-2."""

    max_body_bytes: int = 4 << 20
    """Of a request: a whole context takes some 10 kB as text or ids, so this is room for lists of hundreds."""
    max_header_bytes: int = 16 << 10
    """Request line and headers together; 16 KiB is what proxies and browsers stay below."""
    max_headers: int = 100
    header_time_s: float = 10.0
    """From the first byte of a request, or the connection's beginning, to its last header."""
    body_time_s: float = 30.0
    """From the last header to the last byte of the body."""
    idle_time_s: float = 75.0
    """Between two requests of a connection; longer than the minute that most proxies keep theirs."""
    write_time_s: float = 60.0
    """That a client may stay behind in reading its answer."""
    max_connections: int = 1024
    """At the limit the one that has kept the server waiting longest makes room."""

    ping_s: float = 15.0
    """Of silence in a stream, after which it gets a comment: proxies end a connection that says nothing."""
    grace_s: float = 30.0
    """That running requests have to finish after SIGTERM or SIGINT."""
    log_format: LogFormat = "json"
    log_prompts: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port={self.port} is not possible; expected 0 to 65535")
        if not self.host:
            raise ConfigError("the host is empty; expected an address, e.g. 127.0.0.1, or 0.0.0.0 for all")
        if not _MODEL_NAME.fullmatch(self.model_name):
            raise ConfigError(
                f"the model name {self.model_name[:40]!r} is not possible; expected 1 to 128 characters without "
                "slashes; choose one with --model-name"
            )
        if self.log_format not in LOG_FORMATS:
            raise ConfigError(
                f"log_format={self.log_format!r} is unknown; expected {' or '.join(LOG_FORMATS)}"
            )
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"the CORS origin {origin!r} is not possible; expected http://HOST, https://HOST[:PORT] or *"
                )
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} is not possible; expected 1 or more")
        for name in _TIMES:
            if not 0 < getattr(self, name) <= _A_DAY:
                raise ConfigError(
                    f"{name}={getattr(self, name)} is not possible; expected seconds above 0, at most {_A_DAY}"
                )
        if not 0 <= self.grace_s <= _A_DAY:
            raise ConfigError(f"grace_s={self.grace_s} is not possible; expected seconds from 0 to {_A_DAY}")
        if self.max_best_of < self.max_n:
            raise ConfigError(
                f"max_best_of={self.max_best_of} is less than max_n={self.max_n}; expected at least that, "
                "because n texts are the best of as many"
            )
        if self.max_connections > _MOST_CONNECTIONS:
            raise ConfigError(
                f"max_connections={self.max_connections} is not possible; expected at most {_MOST_CONNECTIONS}"
            )
        if self.kv_tokens is not None and self.kv_memory_bytes is not None:
            raise ConfigError("kv_tokens and kv_memory were both given; they say the same, so give one")


_A_DAY = 86_400
_COUNTS = (
    "slots",
    "queue",
    "kv_tokens",
    "kv_memory_bytes",
    "explain_queue",
    "explain_memory_bytes",
    *(setting.name for setting in fields(ServeSettings) if setting.name.startswith("max_")),
)
_TIMES = ("header_time_s", "body_time_s", "idle_time_s", "write_time_s", "ping_s")


def gather_keys(
    given: Sequence[str] = (), file: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The keys of the command line, of ``file`` (one a line; empty ones and those with # passed over) and of VARIABLES.

    ``ConfigError`` for one that cannot be a key, by its place and never with its text, and for a file without any.
    """
    found = [("--api-key", key) for key in given]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"the file of API keys {file} cannot be read: {reason}") from error
        of_file = [
            (f"{file}:{number}", line.strip())
            for number, line in enumerate(lines, start=1)
            if line.strip() and not line.startswith("#")
        ]
        if not of_file:
            # Whoever names a file wants the server closed: an empty one must not open it.
            raise ConfigError(f"the file of API keys {file} has none; expected one a line")
        found += of_file
    single, several = ((environment or {}).get(name, "") for name in VARIABLES)
    if single:
        found.append((VARIABLES[0], single))
    found += [(VARIABLES[1], key.strip()) for key in several.split(",") if key.strip()]
    for place, key in found:
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"the API key of {place} is not possible; expected printable ASCII characters without blanks"
            )
    return tuple(dict.fromkeys(key for _, key in found))
