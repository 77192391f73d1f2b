"""litellm against a server of ours; prints one JSON object that the test looks at. Runs where litellm is alone."""

from __future__ import annotations

import json
import os
import sys

# Else it asks the network for a table of prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

PROMPT = "The sea keeps"
MESSAGES = [{"role": "user", "content": "What does the sea bring?"}]


def main(url: str, model: str) -> None:
    settings = {
        "seed": 1,
        "max_tokens": 20,
        "temperature": 1.1,
        "api_base": url,
        "api_key": "unused",
        "max_retries": 0,
    }
    chat = {"model": f"openai/{model}", "messages": MESSAGES, **settings}
    completion = {"model": f"text-completion-openai/{model}", "prompt": PROMPT, **settings}
    errors = {}
    for name, wrong in {
        "temperature": {"temperature": -3},
        "model": {"model": "openai/no-such"},
        "length": {"messages": [{"role": "user", "content": "sea " * 2000}]},
    }.items():
        try:
            litellm.completion(**{**chat, **wrong})
        except Exception as error:
            errors[name] = [type(error).__name__, getattr(error, "status_code", None)]
    print(
        json.dumps(
            {
                "chat": litellm.completion(**chat).choices[0].message.content,
                "chat streamed": "".join(
                    piece.choices[0].delta.content or "" for piece in litellm.completion(stream=True, **chat)
                ),
                "completion": litellm.text_completion(**completion).choices[0].text,
                "completion streamed": "".join(
                    piece.choices[0].text or ""
                    for piece in litellm.text_completion(stream=True, **completion)
                ),
                "errors": errors,
            }
        )
    )


main(*sys.argv[1:])
