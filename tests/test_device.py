"""Automatic choices come with a reason; what can't be is refused before anything starts."""

import pytest
import torch

from mura.device import choose_device, choose_precision, cpu_computes_bfloat16
from mura.errors import ConfigError


def test_every_choice_has_a_reason() -> None:
    device = choose_device("auto", 1)
    precision = choose_precision("auto", device.value)
    assert device.reason
    assert precision.reason
    assert choose_precision("64-true", "cpu") == ("64-true", "as asked")


def test_a_cpu_uses_bfloat16_only_when_it_computes_in_it() -> None:
    expected = "bf16-mixed" if cpu_computes_bfloat16() else "32-true"
    assert choose_precision("auto", "cpu").value == expected


def test_more_gpus_than_there_are_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match="trainer=ddp_cpu"):
        choose_device("gpu", torch.cuda.device_count() + 1)
