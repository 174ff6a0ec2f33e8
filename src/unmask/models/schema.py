"""What the JSON files of a model directory must look like.

Only what decides sizes, memory and time, and what this package reads itself, is named: the rest of
these files belongs to other programs, which may write what they like. Every field may be missing or
null; the families say which ones they cannot do without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.errors import UnmaskError, count_of, short_text
from unmask.files import check_data, read_json
from unmask.tensors import TensorInfo

Width = Annotated[int, Field(ge=1, le=2**20)]
Count = Annotated[int, Field(ge=1, le=4096)]
Vocabulary = Annotated[int, Field(ge=1, le=2**24)]
Length = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]
# Fields of any architecture that count parts, and those that are sizes of tensors.
COUNTS = re.compile(r"(layers?|blocks|experts|heads)$|^n_(layer|head|block)")
SIZES = re.compile(r"(size|dim|width)$|^(d_model|n_embd|d_ff|n_inner)$")
MOST_PARTS, LARGEST_SIZE, LARGEST_NUMBER = 4096, 2**24, 2**53


class ModelConfig(BaseModel):
    """The fields of a config.json that this package, or a stock class on its behalf, builds a
    network from."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    model_type: str | None = None
    architectures: list[str] | None = None
    hidden_size: Width | None = None
    d_model: Width | None = None
    intermediate_size: Width | None = None
    mlp_hidden_size: Width | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=1024)] | None = None
    dense_intermediate_size: Width | None = None
    expert_intermediate_size: Width | None = None
    moe_intermediate_size: Width | None = None
    head_dim: Width | None = None
    num_hidden_layers: Count | None = None
    n_layers: Count | None = None
    num_attention_heads: Count | None = None
    n_heads: Count | None = None
    num_key_value_heads: Count | None = None
    n_kv_heads: Count | None = None
    num_experts: Count | None = None
    num_experts_per_tok: Count | None = None
    moe_layer_freq: int | list[int] | None = None
    vocab_size: Vocabulary | None = None
    embedding_size: Vocabulary | None = None
    type_vocab_size: Annotated[int, Field(ge=0, le=2**16)] | None = None
    max_position_embeddings: Length | None = None
    max_sequence_length: Length | None = None
    local_attention: Length | None = None
    global_attn_every_n_layers: Count | None = None
    rms_norm_eps: Epsilon | None = None
    layer_norm_eps: Epsilon | None = None
    norm_eps: Epsilon | None = None
    rope_theta: Positive | None = None
    global_rope_theta: Positive | None = None
    local_rope_theta: Positive | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    initializer_range: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    attention_dropout: Share | None = None
    hidden_dropout_prob: Share | None = None
    attention_probs_dropout_prob: Share | None = None
    hidden_act: str | None = None
    hidden_activation: str | None = None
    tie_word_embeddings: bool | None = None
    weight_tying: bool | None = None
    include_bias: bool | None = None
    include_qkv_bias: bool | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    norm_topk_prob: bool | None = None
    is_causal: bool | None = None
    is_decoder: bool | None = None
    mask_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    pad_token_id: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    bos_token_id: TokenId | list[TokenId] | None = None
    quantization_config: dict[str, Any] | None = None

    @model_validator(mode="after")
    def sizes_fit(self) -> ModelConfig:
        """Whether heads can be cut, enough experts are there, and positions are turned as in a row
        alone; pydantic makes a sentence of what is raised."""
        width, heads = self.hidden_size or self.d_model, self.num_attention_heads or self.n_heads
        shared = self.num_key_value_heads or self.n_kv_heads
        if width and heads and self.head_dim is None and width % heads:
            raise ValueError(f"width {width} cannot be cut into {heads} heads")
        if heads and shared and heads % shared:
            raise ValueError(f"{heads} heads cannot share {shared} key-value heads")
        for rope in (self.rope_scaling, self.rope_parameters):
            kinds = [rope, *rope.values()] if rope else []  # perhaps one for each kind of layer
            for kind in (part for part in kinds if isinstance(part, dict)):
                if (name := kind.get("rope_type", kind.get("type"))) in ("dynamic", "longrope"):
                    raise ValueError(
                        f"rope of type {name} depends on the longest row beside, and rows would "
                        "not be independent"
                    )
        if self.num_experts and (self.num_experts_per_tok or 1) > self.num_experts:
            raise ValueError(f"{self.num_experts_per_tok} of {self.num_experts} experts are asked")
        vocabulary = self.embedding_size or self.vocab_size
        if vocabulary and self.pad_token_id is not None and self.pad_token_id >= vocabulary:
            raise ValueError(f"pad_token_id is {self.pad_token_id} of {vocabulary} tokens")
        return self


class WeightIndex(BaseModel):
    """`model.safetensors.index.json`: which file holds which weight."""

    model_config = ConfigDict(extra="allow")

    weight_map: Annotated[
        dict[str, Annotated[str, Field(pattern=r"^[^/\\]+\.safetensors$")]], Field(min_length=1)
    ]


class Recipe(BaseModel):
    """The settings of `unmask pretrain`, as far as whoever loads the model needs them."""

    task: str


class RecipeFile(BaseModel):
    """`recipe.json`, which `unmask pretrain` writes beside the weights."""

    recipe: Recipe


class SpecialToken(BaseModel):
    """A special token with the rules by which it is found in a text."""

    model_config = ConfigDict(extra="allow", strict=True)

    content: Annotated[str, Field(max_length=1000)]
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False


class NamedTemplate(BaseModel):
    """One of several chat templates."""

    name: str
    template: Annotated[str, Field(max_length=2**20)]


Special = Annotated[str, Field(max_length=1000)] | SpecialToken


class TokenizerConfig(BaseModel):
    """`tokenizer_config.json` and `special_tokens_map.json`, as far as they are read here."""

    model_config = ConfigDict(extra="allow", strict=True)

    tokenizer_class: str | None = None
    bos_token: Special | None = None
    eos_token: Special | None = None
    unk_token: Special | None = None
    sep_token: Special | None = None
    pad_token: Special | None = None
    cls_token: Special | None = None
    mask_token: Special | None = None
    additional_special_tokens: list[Special] | None = None
    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^\d{1,8}$")], SpecialToken] | None = (
        None
    )
    chat_template: Any = None  # models/chat.py looks at it
    extra_special_tokens: dict[str, Special] | list[Special] | None = None


class AddedToken(BaseModel):
    """An entry of `added_tokens`."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: Annotated[int, Field(ge=0, lt=2**24)]
    content: str


class TokenizerModel(BaseModel):
    """The vocabulary of a tokenizer: ids by token, or pairs of token and score."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str | None = None
    vocab: dict[str, Annotated[int, Field(ge=0, lt=2**24)]] | list[Any]


class TokenizerFile(BaseModel):
    """`tokenizer.json`, as far as its sizes go; the tokenizers' library reads the rest."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: TokenizerModel
    added_tokens: list[AddedToken] | None = None


def read_model_config(directory: Path) -> dict[str, Any]:
    """The config.json of a model directory, checked.

    Raises:
        UnmaskError: naming the field that cannot be used.
    """
    path = directory / "config.json"
    config = read_json(path)
    check_data(config, ModelConfig, str(path))
    for name, value in walk_numbers(config):
        part, size = COUNTS.search(name), SIZES.search(name)
        most = MOST_PARTS if part else LARGEST_SIZE if size else LARGEST_NUMBER
        if value > most or value < -LARGEST_NUMBER or (value < 0 and (part or size)):
            raise UnmaskError(
                f"{path} cannot be used: {short_text(name, 60)} is {describe_number(value)} "
                f"(accepted are 0 to {most}); copy it from its source"
            )
    return config


def describe_number(value: int) -> str:
    """A whole number, however long."""
    return str(value) if value.bit_length() < 200 else "a huge number"


def walk_numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers in a JSON value, each with the name of the field that it is in."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from walk_numbers(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from walk_numbers(part, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value


def check_parts(config: Mapping[str, Any], headers: Mapping[str, TensorInfo], path: Path) -> None:
    """Refuses a network of more layers or heads than the weight files can hold, before one is
    built: every layer has a weight of its own.

    Raises:
        UnmaskError: naming the field.
    """
    for name, value in walk_numbers(dict(config)):
        if re.search(r"(hidden_layers|n_layers|n_layer|num_layers)$", name) and value > len(
            headers
        ):
            raise UnmaskError(
                f"{path} cannot be used: {name} is {value}, and the weight files hold "
                f"{count_of(len(headers), 'tensor')}; copy both from one source"
            )


def check_tokenizer_files(directory: Path) -> None:
    """Looks at the tokenizer's JSON files before a library reads them.

    Raises:
        UnmaskError: naming the file and the field that cannot be used.
    """
    schemas = {
        "tokenizer_config.json": TokenizerConfig,
        "special_tokens_map.json": TokenizerConfig,
        "tokenizer.json": TokenizerFile,
        "vocab.json": dict[str, Annotated[int, Field(strict=True, ge=0, lt=2**24)]],
        "added_tokens.json": dict[str, Annotated[int, Field(strict=True, ge=0, lt=2**24)]],
        "generation_config.json": dict[str, Any],
    }
    for name, schema in schemas.items():
        if (directory / name).exists():
            read_json(directory / name, schema)
