"""`unmask playground`"""

from __future__ import annotations

import threading
import webbrowser
from dataclasses import dataclass

from unmask.cli import serve


@dataclass(frozen=True)
class Config:
    """Serve all embedded models and the policies that ship with them, and open the playground in
    the browser."""

    port: int = 0
    """Port to listen on, on this machine alone; 0 is any free one."""
    browser: bool = True
    """Open the page."""


def run(config: Config) -> None:
    from unmask.models import embedded_models
    from unmask.policies import embedded_policies

    served = serve.Config(
        model=tuple(embedded_models()),
        policy=("threshold:0.9", *embedded_policies()),
        port=config.port,
        dtype="float32",  # these models are small, and CPUs compute bfloat16 more slowly
    )
    serve.run_server(served, open_page if config.browser else lambda url: None)


def open_page(url: str) -> None:
    """Opens the page; where there is no browser, the line in the terminal says where it is. The
    server goes on meanwhile: a browser of the terminal is waited for until it is closed."""
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
