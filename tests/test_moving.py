"""Small tensors on their way to a device."""

import torch

from stream_ann.training.moving import moved


def test_on_the_cpu_nothing_is_copied():
    rows = torch.arange(5)
    assert moved(rows, torch.device("cpu")) is rows
    assert moved(rows, torch.device("cpu"), torch.float32).dtype == torch.float32


def test_to_another_device_it_arrives_as_it_is_or_as_asked_for():
    meta = torch.device("meta")
    assert moved(torch.arange(5), meta).dtype == torch.int64
    found = moved(torch.arange(5), meta, torch.float32)
    assert (found.device, found.dtype, found.shape) == (meta, torch.float32, (5,))
