"""What the files of an evaluation must look like: settings, ledgers, results and summaries.

Records stay plain dictionaries, since there are many of them and their further keys are kept.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, ConfigDict, Field

# pydantic reads `NotRequired` from this TypedDict only, on Python 3.11.
from typing_extensions import TypedDict

MOST = 2**31 - 1
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Step = Annotated[int, Field(ge=-1, le=MOST)]
Length = Annotated[int, Field(ge=1, le=MOST)]
STRICT = ConfigDict(extra="allow", strict=True)


class Record(TypedDict):
    """A line of results.jsonl: one answer."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    sampler: str
    block_length: Length
    seed: int
    prompt: str
    correct: bool | Share
    nfe: Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
    answer: NotRequired[str | None]
    answer_tokens: NotRequired[Annotated[float, Field(ge=0, le=MOST)]]
    timed_out: NotRequired[bool]
    reveal_step: NotRequired[Annotated[list[Step], Field(min_length=1)]]
    tokens: NotRequired[list[str | None]]


class PieceCost(TypedDict):
    """What a piece took; older ledgers say less."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    seconds: Amount
    scoring_seconds: Amount
    model_calls: Amount
    positions: Annotated[float, Field(gt=0, le=1e15)]
    padding: Amount


class PieceLine(TypedDict):
    """A line of a ledger: a piece of work that is done."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    piece: Annotated[int, Field(ge=0)]
    cost: PieceCost
    records: list[Record]


class StartedEvaluation(TypedDict):
    """`partial/settings.json`."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    settings: dict[str, Any]
    provenance: dict[str, Any]


class PointFile(BaseModel):
    """A point of a summary; the fields of `Point`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sampler: str
    block_length: Length
    prompts: Annotated[int, Field(ge=0)]
    seeds: Annotated[int, Field(ge=0)]
    accuracy: Share
    accuracy_low: Share
    accuracy_high: Share
    nfe: Amount
    nfe_low: Amount
    nfe_high: Amount
    tokens_per_forward: Amount | None = None
    seconds: Amount | None = None
    timed_out: Annotated[int, Field(ge=0)] = 0


class Summary(BaseModel):
    """summary.json, as far as it is read again."""

    model_config = STRICT

    model: str
    task: str
    split: str
    max_new_tokens: Length
    points: list[PointFile]
