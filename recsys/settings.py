"""The configuration as a user gives it: a file, single keys, and a registered model for its text encoder.

In: a TOML file and `SECTION.KEY=VALUE`. Out: `Config`, whose `encoder.name` is no registered model any more.
"""

from pathlib import Path

from recsys.config import Config, load_config

REGISTERED = "models:/"


def read_settings(path: Path | None, sets: tuple[str, ...], base: Config | None = None) -> Config:
    """Return the configuration of the TOML file `path` and the keys `sets`, the rest as in `base`.

    Where `encoder.name` is a registered model of this engine, a text head for example, its text encoder is taken.

    Raises:
        RecsysError: a key or value is invalid, or no such model is registered.
    """
    config = load_config(path, sets, base)
    if not config.encoder.name.startswith(REGISTERED):
        return config
    from recsys.registry import encoder_folder

    folder = str(encoder_folder(config.encoder.name, "encoder.name"))
    return config.model_copy(update={"encoder": config.encoder.model_copy(update={"name": folder})})
