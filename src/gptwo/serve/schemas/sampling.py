"""The fields of both ways of writing: OpenAI's sampling, and the extensions that vLLM's clients know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from gptwo.serve.schemas.base import RequestBody, expecting

MOST_BIASES = 1024
MOST = 2**31 - 1

# openapi.py puts this server's and this model's own in the place of these names.
ModelName = Annotated[str, Field(json_schema_extra={"enum": ["model_name"]})]
TokenId = Annotated[int, Field(ge=0, le=MOST, json_schema_extra={"maximum": "last_token"})]
Choices = Annotated[int, Field(ge=1, le=MOST, json_schema_extra={"maximum": "max_n"})]
Candidates = Annotated[int, Field(ge=1, le=MOST, json_schema_extra={"maximum": "max_best_of"})]
NoneOrMore = Annotated[int, Field(ge=0, le=MOST, json_schema_extra={"maximum": "context"})]
OneOrMore = Annotated[int, Field(ge=1, le=MOST, json_schema_extra={"maximum": "context"})]

StopString = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Stop = Annotated[
    StopString | Annotated[list[StopString], Field(max_length=4)],
    expecting("a string of 1 to 1,000 characters, or a list of up to 4 of them"),
]


def _few(value: Any) -> Any:
    # Before a hundred thousand of them are looked at, and each brings an error of its own.
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        raise ValueError(f"at most {MOST_BIASES:,} ids; got {len(value):,}")
    return value


LogitBias = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})$")],
        Annotated[float, Field(ge=-100, le=100)],
    ],
    Field(max_length=MOST_BIASES, json_schema_extra={"additionalProperties": False}),
    BeforeValidator(_few),
]


class StreamOptions(RequestBody):
    """What a stream carries beside the text."""

    include_usage: bool | None = Field(None, description="a last chunk with the counts of tokens")


class JsonSchemaFormat(RequestBody):
    """A JSON Schema that the text has to satisfy."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    json_schema: dict[str, Any] = Field(alias="schema")


class TextFormat(RequestBody):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(RequestBody):
    """The text is a JSON object."""

    type: Literal["json_object"]


class JsonSchemaResponseFormat(RequestBody):
    """The text satisfies a JSON Schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaResponseFormat, Field(discriminator="type")
]


class SamplingFields(RequestBody):
    """How the next token is taken. null is the same as leaving a field out. Equations: infer/sampling.py."""

    model: ModelName | None = Field(None, description="as /v1/models names it")
    temperature: float | None = Field(None, ge=0, description="0 is greedy; default 1")
    top_p: float | None = Field(None, ge=0, le=1, description="keep the fewest tokens with this probability")
    top_k: int | None = Field(None, ge=-1, le=MOST, description="keep the k most probable; 0 and -1 are none")
    min_p: float | None = Field(None, ge=0, le=1, description="keep tokens this probable beside the best one")
    n: Choices | None = Field(None, description="choices for each prompt; choice i draws with seed + i")
    stop: Stop | None = Field(None, description="what ends the text, and is cut from it")
    seed: int | None = Field(
        None, ge=0, le=2**63 - 1, description="the same seed, the same text; default a fresh one"
    )
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100, description="1 is none")
    logit_bias: LogitBias | None = Field(None, description="what is added to the logit of an id")
    ignore_eos: bool | None = Field(None, description="write on past <|endoftext|>")
    response_format: ResponseFormat | None = Field(None, description="text, or JSON by a grammar")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="is not used")

    @property
    def bias(self) -> dict[int, float] | None:
        """``logit_bias`` by number: JSON has no numbers for keys."""
        return None if self.logit_bias is None else {int(token): b for token, b in self.logit_bias.items()}
