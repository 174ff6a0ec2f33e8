"""`unmask serve`: an OpenAI-compatible server around the engine, and the playground page."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Catalog": "catalog",
        "Limits": "limits",
        "Worker": "worker",
        "build_app": "app",
        "build_catalog": "catalog",
        "serve": "run",
    },
)
