"""Pre-training of small masked diffusion language models on generated data."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {"PretrainConfig": "config", "pretrain": "run"}
)
