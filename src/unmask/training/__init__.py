"""Training: rewards, the GRPO loss and the trainer."""

from unmask.training.config import TrainConfig
from unmask.training.trainer import train

__all__ = ["TrainConfig", "train"]
