"""What clients send and get: OpenAI's shapes of chat and text completions, with what this server
adds under `unmask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unmask.decoding.options import MOST_CHOICES, CacheKind, EndOfText

# Fields of OpenAI's API that change nothing at these values, which some clients send always. With
# another value they are refused by name, like every field that is not known.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
}
# What is accepted where a field takes values of several kinds.
ACCEPTED = {
    "prompt": "give text, a list of texts, token ids, or a list of lists of token ids",
    "stop": "give text or a list of texts",
    "allowed": "give for each position a list of token ids and texts of one token, or null",
    "content": 'give text, or a list of parts {"type": "text", "text": …}',
}
NEUTRAL_IN_MESSAGES = ("annotations", "audio", "function_call", "name", "refusal", "tool_calls")


class ApiError(Exception):
    """An answer that is an error, in OpenAI's shape.

    Args:
        status: of HTTP.
        message: one sentence.
        param: the field at fault.
        code: a word for programs.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


class Strict(BaseModel):
    """Takes JSON's own types and known names only."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


def check_characters(value: Any) -> None:
    """Refuses JSON with half a character in it: JSON can write one, and nothing else can read it.

    Raises:
        ValueError: if there is one.
    """
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            left += part
        elif isinstance(part, str) and not part.isascii():
            try:
                part.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    "a text holds half a character (a lone surrogate); remove it"
                ) from None


class WholeBody(Strict):
    """The body of a request."""

    @model_validator(mode="before")
    @classmethod
    def check_texts(cls, values: Any) -> Any:
        """Refuses what no tokenizer takes and no answer can repeat."""
        check_characters(values)
        return values


# Positions of `allowed` and tokens at them, together.
MOST_ALLOWED = 20_000
# Stop strings of a request, and the characters of each: they are looked for in every pass.
MOST_STOPS, LONGEST_STOP = 64, 1000
# Fields under `unmask` that are no fields of `DecodeOptions`.
NO_DECODE_OPTIONS = {"policy", "alpha", "target_nfe", "allowed", "canvas"}


class UnmaskOptions(Strict):
    """What this server adds to OpenAI's API."""

    policy: str | None = Field(
        None,
        max_length=200,
        description="A policy that /v1/models lists, or a heuristic such as threshold:0.9.",
    )
    alpha: float | None = Field(
        None, description="α, for a policy that was trained for a range: larger is faster."
    )
    target_nfe: float | None = Field(
        None, description="Picks the α that needs about so many forward passes."
    )
    block_length: int | None = Field(
        None,
        description="BL; the length itself is full diffusion. Left out, it is the server's or the "
        "model's own, else that of a policy that was trained in blocks, else the length.",
    )
    top_k: int | None = None
    cfg_scale: float | None = None
    eos: EndOfText | None = None
    stop_at_eos: bool | None = None
    max_passes: int | None = None
    cache: CacheKind | None = None
    cache_refresh: int | None = None
    choices: list[str] | None = Field(
        None, max_length=MOST_CHOICES, description="The answer is one of these texts."
    )
    allowed: list[list[str | int] | None] | None = Field(
        None,
        max_length=MOST_ALLOWED,
        description="The tokens that may stand at each position of the answer, as token ids or "
        "texts of one token, or null for any; positions behind the last entry are free.",
    )
    canvas: bool = Field(False, description="With stream: send the canvas after every pass.")

    @field_validator("allowed")
    @classmethod
    def count_allowed(cls, value: list[list[str | int] | None] | None) -> Any:
        """Refuses more tokens than can be looked at beside other requests."""
        count = sum(1 + len(tokens or ()) for tokens in value or ())
        if count > MOST_ALLOWED:
            raise ValueError(
                f"{count} positions and tokens were given; give at most {MOST_ALLOWED} in all"
            )
        return value

    def settings(self) -> dict[str, Any]:
        """The fields of `DecodeOptions` among them that were given."""
        given = self.model_dump(exclude=NO_DECODE_OPTIONS)
        return {name: value for name, value in given.items() if value is not None}


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Body(WholeBody):
    """What both kinds of request have in common."""

    model: str = Field(max_length=1000)
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = Field(
        None,
        description=f"A text, or up to {MOST_STOPS} of them, of at most {LONGEST_STOP} characters "
        "each: the answer ends before the first one.",
    )
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Accepted and not used.")
    unmask: UnmaskOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def drop_neutral(cls, values: Any) -> Any:
        """Leaves out the fields of OpenAI's API that ask for nothing."""
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if not is_neutral(name, value)}

    @field_validator("stop")
    @classmethod
    def count_stops(cls, value: str | list[str] | None) -> Any:
        """Refuses more text than can be looked for beside other requests."""
        texts = [value] if isinstance(value, str) else value or []
        longest = max(map(len, texts), default=0)
        if len(texts) > MOST_STOPS or longest > LONGEST_STOP:
            raise ValueError(
                f"{len(texts)} texts of up to {longest} characters were given; give at most "
                f"{MOST_STOPS}, of at most {LONGEST_STOP} characters each"
            )
        return value

    @property
    def extensions(self) -> UnmaskOptions:
        return self.unmask or UnmaskOptions()  # type: ignore[call-arg]  # pydantic's defaults

    @property
    def length(self) -> int | None:
        """L, if it was given."""
        return self.max_tokens

    def settings(self) -> dict[str, Any]:
        """The fields of `DecodeOptions` that were given."""
        given = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        if self.stop is not None:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.length is not None:
            given["max_new_tokens"] = self.length
        found = {name: value for name, value in given.items() if value is not None}
        return found | self.extensions.settings()


def is_neutral(name: str, value: Any) -> bool:
    """Whether a field asks for nothing. (0 == False in Python, so the types are compared too.)"""
    return any(
        value == other and isinstance(value, bool) == isinstance(other, bool)
        for other in NEUTRAL.get(name, ())
    )


class TextPart(Strict):
    type: Literal["text"]
    text: str


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @model_validator(mode="before")
    @classmethod
    def drop_neutral(cls, values: Any) -> Any:
        """Leaves out what clients copy from an answer into the next question."""
        if not isinstance(values, dict):
            return values
        return {
            name: value
            for name, value in values.items()
            if name not in NEUTRAL_IN_MESSAGES or value not in (None, [])
        }

    def plain(self) -> dict[str, str]:
        """The message as chat templates take it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(Body):
    """A body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = None

    @property
    def length(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @model_validator(mode="after")
    def check_lengths(self) -> ChatBody:
        """Refuses two different lengths."""
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self


class CompletionBody(Body):
    """A body of POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    suffix: str | None = Field(
        None, description="Text behind the answer: the answer is filled in between."
    )

    def prompts(self) -> list[str | list[int]]:
        """One or several prompts."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        parts: list[Any] = list(self.prompt)
        return [parts] if parts and isinstance(parts[0], int) else parts


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Passes(BaseModel):
    """What an answer cost: its NFE, and its tokens for each of them."""

    nfe: int
    tokens_per_pass: float


class AnswerCost(Passes):
    policy: str
    alpha: float | None


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]
    unmask: Passes


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"]
    unmask: Passes


class ChatAnswer(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    unmask: AnswerCost


class TextAnswer(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    unmask: AnswerCost


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: ErrorDetail


def explain_invalid(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """One error for all that pydantic says of a body; unknown fields are all named."""
    places = [
        ".".join(str(part) for part in error["loc"] if part not in ("body", "query"))
        for error in errors
    ]
    unknown = [p for p, e in zip(places, errors, strict=True) if e["type"] == "extra_forbidden"]
    if unknown:
        named = ", ".join(sorted(set(unknown)))[:500]
        return ApiError(
            400,
            f"this server does not support {named}; leave it out",
            unknown[0][:200],
            "unsupported_parameter",
        )
    if not errors:
        return ApiError(400, "the body cannot be read; send JSON")
    for name, accepted in ACCEPTED.items():
        if name in errors[0]["loc"] and name != errors[0]["loc"][-1]:
            return ApiError(400, f"{name} is of another kind; {accepted}", name)
    if errors[0]["type"] == "json_invalid":
        why = errors[0].get("ctx", {}).get("error", "it cannot be read")
        where = errors[0]["loc"][-1]
        return ApiError(400, f"the body is no JSON at character {where} ({why}); correct it")
    place, said = places[0][:200], str(errors[0]["msg"]).removeprefix("Value error, ")
    if errors[0]["type"] in ("missing", "model_attributes_type") and not place:
        return ApiError(400, "the body is no JSON object; send one, as application/json")
    said = said[:1].lower() + said[1:300]
    return ApiError(400, f"{place}: {said}" if place else said, place or None)
