"""`unmask train`"""

from unmask.training.config import TrainConfig as Config
from unmask.training.trainer import train


def run(config: Config) -> None:
    out = train(config)
    print(f"policies written to {out / 'best'} and {out / 'last'}")
