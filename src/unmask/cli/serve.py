"""`unmask serve`"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from unmask.decoding.options import DecodeOptions
from unmask.errors import UnmaskError
from unmask.serving.limits import Limits

if TYPE_CHECKING:
    from unmask.serving import Catalog

KEY_VARIABLE = "UNMASK_API_KEY"
LOCAL = ("127.0.0.1", "::1", "localhost")
Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class Config:
    """Serve models with OpenAI's API (chat and text completions, streaming), and the playground
    page at /. See docs/serving.md."""

    model: Repeated = ()
    """Frozen model, as MODEL or NAME=MODEL: an embedded one, a directory or a Hub repository; give
    it again for several; embedded/chain if left out."""
    policy: Repeated = ()
    """Policy, as SPEC or NAME=SPEC: a heuristic such as threshold:0.9, or a policy directory; give
    it again for several. Requests that name none get the first; threshold:0.9 if left out.
    Requests may name any heuristic."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every one of this machine."""
    port: int = 8000
    """Port to listen on; 0 is any free one."""
    api_key: str | None = None
    """Key that clients must send; better set in the variable UNMASK_API_KEY, since other users of
    a machine can read command lines."""
    cors: Repeated = ()
    """Origin of another page that may call this server from a browser, such as
    https://example.org; give it again for several, * for all."""
    batch_size: int = 64
    """Answers written side by side, for each model."""
    limits: tyro.conf.OmitArgPrefixes[Limits] = field(default_factory=Limits)
    """What a client may ask for."""
    decode: tyro.conf.OmitArgPrefixes[DecodeOptions] = field(default_factory=DecodeOptions)
    """How prompts are decoded where a request says nothing."""
    device: str = "cpu"
    """Device of the models."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Weights and activations of the frozen models; auto is bfloat16, but float32 on a CPU without
    instructions for bfloat16."""
    attn_implementation: str | None = None
    """Attention kernel as in transformers (sdpa, eager, flash_attention_2, …)."""


def run(config: Config) -> None:
    run_server(config, lambda url: None)


def find_key(config: Config) -> str | None:
    """The API key of the option or the environment.

    Raises:
        UnmaskError: if it is empty, or cannot be sent in a header.
    """
    key = os.environ.get(KEY_VARIABLE) if config.api_key is None else config.api_key
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
        raise UnmaskError(
            f"the API key is empty or holds spaces around it or characters beyond ASCII; give "
            f"another one with {KEY_VARIABLE}"
        )
    return key


def run_server(config: Config, started: Callable[[str], None]) -> None:
    """Loads everything, then serves until a signal comes.

    Args:
        config: what to serve.
        started: gets the server's URL once it answers.

    Raises:
        UnmaskError: if something cannot be loaded, or the port is taken.
    """
    try:
        from unmask.serving.catalog import build_catalog
        from unmask.serving.run import open_socket, serve
    except ModuleNotFoundError as error:
        raise UnmaskError(
            f"the server needs the package {error.name}; run pip install 'unmask[serve]'"
        ) from None
    if not 0 <= config.port < 2**16:
        raise UnmaskError(f"port is {config.port}; give 0 to 65535")
    key = find_key(config)
    bound = open_socket(config.host, config.port)
    catalog = build_catalog(
        config.model or ("embedded/chain",),
        config.policy or ("threshold:0.9",),
        config.decode,
        config.limits,
        slots=config.batch_size,
        device=config.device,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
    )
    shown = f"[{config.host}]" if ":" in config.host else config.host
    url = f"http://{shown}:{bound.getsockname()[1]}"
    if config.host not in LOCAL and key is None:
        print(
            f"unmask serve: anyone who reaches {config.host} may use this server; set "
            f"{KEY_VARIABLE} to ask for a key",
            file=sys.stderr,
        )

    def announce() -> None:
        print(describe_server(catalog, url), flush=True)
        started(url)

    serve(catalog, bound, key=key, cors=config.cors, started=announce)


def describe_server(catalog: Catalog, url: str) -> str:
    """What the terminal shows once the server answers."""
    models, policies = ", ".join(catalog.models), ", ".join(catalog.policies)
    return f"serving {models} with {policies}\nAPI {url}/v1, playground {url}/"
