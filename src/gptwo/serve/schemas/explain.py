"""What may be asked under /explain. The answers are described in docs/explain-api.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gptwo.serve.schemas.base import ReplyBody, RequestBody, expecting
from gptwo.serve.schemas.completions import TokenIds
from gptwo.serve.schemas.sampling import MOST

MOST_PLACES = 4096
MOST_NEW_TOKENS = 100
MOST_TIMED_TOKENS = 64

Index = Annotated[int, Field(ge=0, le=MOST)]
Step = Annotated[
    int, Field(ge=0, le=MOST, description="a checkpoint of the run; left out: the one that is served")
]
Range = Annotated[
    str,
    Field(pattern=r"^[0-9]{0,9}:[0-9]{0,9}$", description="as Python's slices, 0:64"),
    expecting("a range such as 0:64"),
]


class Place(RequestBody):
    """A head of a layer, or its MLP."""

    layer: Index
    head: Index | None = None
    mlp: bool | None = Field(None, description="true for the MLP, in place of a head")


class Ablation(Place):
    """A part that is switched off."""

    to: Literal["zero", "mean"] = Field("zero", alias="with")


class PatchFrom(RequestBody):
    """Parts that give what they give for another prompt, of as many tokens."""

    prompt: str | None = None
    tokens: TokenIds | None = Field(None, description="instead of a prompt")
    places: list[Place] = Field(min_length=1, max_length=MOST_PLACES)


class PromptRequest(RequestBody):
    """A prompt to be explained, whole or with parts changed."""

    prompt: str | None = None
    tokens: TokenIds | None = Field(None, description="instead of a prompt")
    checkpoint: Step | None = None
    ablate: list[Ablation] | None = Field(None, max_length=MOST_PLACES)
    patch: PatchFrom | None = None


class ContinueRequest(PromptRequest):
    """What the model writes after it, greedily, before and after the change."""

    max_tokens: int = Field(20, ge=1, le=MOST_NEW_TOKENS)


class HeatMapRequest(RequestBody):
    """Each head patched alone from another prompt."""

    prompt: str | None = None
    tokens: TokenIds | None = Field(None, description="instead of a prompt")
    other: Annotated[str | TokenIds, expecting("a string or a list of token ids")]
    checkpoint: Step | None = None
    position: Index | None = Field(None, description="left out: the last one")
    token: Index | None = Field(None, description="left out: the most probable one")


class SamplingRequest(RequestBody):
    """How the token after ``position`` would be drawn."""

    position: Index
    temperature: float = Field(1.0, ge=0)
    top_k: int | None = Field(None, ge=-1, le=MOST, description="0 and -1 are none")
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int = Field(0, ge=0, le=2**63 - 1)
    step: Index = 0


class TimeRequest(RequestBody):
    """What is to be timed: a prompt's pass, and that of so many single tokens after it."""

    prompt: str | None = None
    tokens: TokenIds | None = Field(None, description="instead of a prompt")
    decode_tokens: int = Field(16, ge=1, le=MOST_TIMED_TOKENS)


class QueryFields(BaseModel):
    """What stands behind the ?, all of it text."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore", frozen=True)


class TensorQuery(QueryFields):
    """Which part of which tensor."""

    name: str = Field(max_length=100)
    head: Index | None = None
    rows: Range | None = None
    columns: Range | None = None
    size: int | None = Field(
        None, ge=1, le=4096, description="at most so many rows and columns, means of fields"
    )
    tokens: Annotated[str, Field(pattern=r"^[0-9]{1,9}(,[0-9]{1,9}){0,99}$")] | None = Field(
        None, description="of logits: those of these ids alone, 11,262,13"
    )


class ThumbnailsQuery(QueryFields):
    """How large."""

    size: int = Field(64, ge=1, le=64)


class TileQuery(QueryFields):
    """Which part of a head's attention, and in which numbers."""

    rows: Range | None = None
    columns: Range | None = None
    size: int | None = Field(
        None, ge=1, le=4096, description="at most so many rows and columns, the largest of fields"
    )
    format: Literal["uint8", "float32"] = "uint8"


class WorkedQuery(QueryFields):
    """Which entry."""

    name: str = Field(max_length=100)
    row: Index
    column: Index
    head: Index | None = None


class NextQuery(QueryFields):
    """The tokens after which position, and how many."""

    position: Index
    k: int = Field(20, ge=1, le=1000)


class LensQuery(QueryFields):
    """Of which positions."""

    positions: Range | None = None
    k: int = Field(1, ge=1, le=20)


class ContributionsQuery(QueryFields):
    """To which logit."""

    position: Index
    token: Index


class TrainingQuery(QueryFields):
    """Since when."""

    after: int = Field(-1, ge=-1, le=MOST)


class ExplainReply(ReplyBody):
    """An object with the keys that docs/explain-api.md lists for this route."""

    model_config = ConfigDict(extra="allow")


class PromptReply(ExplainReply):
    """The first answer about a prompt; more of it is asked for by its id."""

    id: str
    checkpoint: int | None
    tokens: list[dict[str, Any]]
    surprisal: list[float | None]
    entropy: list[float]
    top: list[list[dict[str, Any]]]
    badge: dict[str, Any]
    seconds: float


class TrainingReply(ReplyBody):
    """A run's log, and its checkpoints."""

    records: list[dict[str, Any]]
    checkpoints: list[int] | None
    live: bool
