"""Which model file this host plans with, checked before an agent relies on it."""

from pathlib import Path

from cloudisense.config import ModelConfig
from cloudisense.llm import models
from cloudisense.llm.gguf import read_header


def find_model(config: ModelConfig, folders: tuple[Path, ...]) -> models.Model | None:
    """The model of the configuration, or else the first of ``folders`` that has ``config.name``; ``None`` without one.

    Raises ``ValueError``, one line, for a model that is named but missing, or damaged.
    """
    if not config.enabled:
        return None
    for folder in (Path(config.file).parent,) if config.file is not None else folders:
        for model in models.installed(folder):
            if model.path == Path(config.file) if config.file is not None else model.name == config.name:
                models.check(model)
                return model
    if config.file is None:
        return None
    path = Path(config.file)
    try:
        read_header(path)
        size = path.stat().st_size
    except OSError as error:
        raise ValueError(f"model {path} cannot be read: {error.strerror}") from None
    return models.Model(path.stem, path, "", size, str(path))
