"""`unmask train`"""

import tyro

from unmask.training.config import TrainConfig

# The groups of settings are headings in `--help`; the flags carry the options' names alone.
Config = tyro.conf.configure(tyro.conf.OmitArgPrefixes)(TrainConfig)


def run(config: TrainConfig) -> None:
    from unmask.training.trainer import train

    out = train(config)
    print(f"policies written to {out / 'best'} and {out / 'last'}")
