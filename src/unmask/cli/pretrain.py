"""`unmask pretrain`"""

from unmask.pretraining.config import PretrainConfig as Config


def run(config: Config) -> None:
    from unmask.pretraining import pretrain

    print(f"model written to {pretrain(config)}")
