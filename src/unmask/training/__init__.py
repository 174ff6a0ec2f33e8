"""Training: rewards, the GRPO loss, the trainer, and pre-training of small models."""

from unmask.training.trainer import TrainConfig, train

__all__ = ["TrainConfig", "train"]
