"""Training: settings, phases, rewards, the GRPO loss, and the trainer."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {"TrainConfig": "config", "train": "trainer"})
