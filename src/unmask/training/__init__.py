"""Training: rewards, the GRPO loss, the trainer, and pre-training of small models."""

from unmask.training.config import TrainConfig
from unmask.training.trainer import train

__all__ = ["TrainConfig", "train"]
