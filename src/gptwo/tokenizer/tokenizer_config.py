"""tokenizer_config.json, and the chat template that transformers keeps beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptwo.base.errors import TokenizerError


def eos_token(config: dict[str, Any]) -> str:
    """The token that ends a text, "" when none is named."""
    named = config.get("eos_token")
    content = named.get("content", "") if isinstance(named, dict) else named
    return content if isinstance(content, str) else ""


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """The keys of tokenizer_config.json; ``chat_template`` may lie in a file of its own, as transformers 5 saves it."""
    file = folder / "tokenizer_config.json"
    template = folder / "chat_template.jinja"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        separate = template.read_text(encoding="utf-8") if template.is_file() else None
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise TokenizerError(f"{file} holds {type(config).__name__}; expected a JSON object")
    return config if separate is None else {**config, "chat_template": separate}
