"""Values have no place where names belong, and are not repeated in the message."""

import pytest

from base.errors import UserError
from launch.config import LaunchConfig
from launch.variables import check_names

HF, HEX = "hf_AbCdEfGhIjKlMnOp", "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("fields", "command", "message"),
    [
        ({"env": ("FINE", f"WANDB_API_KEY={HEX}")}, [], "config.env[1] should be the name"),
        ({"secrets": (f"HF_TOKEN={HF}",)}, [], "config.secrets[0] should be NAME=SECRET"),
        ({"secrets": ("A=a", f"WANDB_API_KEY={HEX}")}, [], "config.secrets[1] should be NAME=SECRET"),
        ({}, ["cat", "caf\udce9"], "word 2 of the command is not UTF-8 text; rename the file that it names"),
        ({}, ["env", f"HF_TOKEN={HF}", "python"], "word 2 of the command looks like a token"),
    ],
)
def test_a_value_is_refused(fields, command, message):
    with pytest.raises(UserError) as error:
        check_names(LaunchConfig(**fields), command)
    assert message in str(error.value)
    assert HF not in str(error.value) and HEX not in str(error.value)


def test_names_pass():
    fields = {"env": ("WANDB_MODE",), "secrets": ("HF_TOKEN=hf-token:3", "WANDB_API_KEY=keys/wandb")}
    check_names(LaunchConfig(**fields), ["python", "-m", "pretrain", f"--config.data.revision={HEX}"])
