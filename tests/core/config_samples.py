"""Config files for tests, and the message of a refused setting."""

import pytest

from gpt_core.config.resolve import read_overrides
from gpt_core.errors import ConfigError


def refusal(*arguments, **named):
    with pytest.raises(ConfigError) as caught:
        read_overrides(*arguments, **named).apply_to()
    message = str(caught.value)
    assert message.isprintable(), "an error is one line"
    return message


def config(tmp_path, text, name="run.toml"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
