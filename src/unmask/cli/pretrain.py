"""`unmask pretrain`"""

from unmask.training.pretrain import PretrainConfig as Config
from unmask.training.pretrain import pretrain


def run(config: Config) -> None:
    print(f"model written to {pretrain(config)}")
