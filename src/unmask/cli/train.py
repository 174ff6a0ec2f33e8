"""`unmask train`"""

import tyro

from unmask.training.config import TrainConfig

# The groups of settings are headings in `--help`; the flags carry the options' names alone.
Config = tyro.conf.configure(tyro.conf.OmitArgPrefixes)(TrainConfig)


def run(config: TrainConfig, given: frozenset[str]) -> None:
    from unmask.training.trainer import train

    out = train(config.with_given(given))
    print(f"policies written to {out / 'best'} and {out / 'last'}")
