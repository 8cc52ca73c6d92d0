"""From a trained net to one for other classes: its weights are kept, and classifiers are fitted to what it sees."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream_ann.errors import UsageError
from stream_ann.nets import AnytimeNet, arch_of, build
from stream_ann.preprocess import Preprocessing
from stream_ann.training.checkpoint import tensors_of
from stream_ann.training.options import Amp
from stream_ann.training.randomness import generator
from stream_ann.training.split import Split
from stream_ann.training.stepper import autocast, exits_of, normalised, resolution_of
from stream_ann.training.validation import closed

__all__ = ["arch_for_classes", "fit_classifiers", "for_classes"]

MAX_FEATURE_BYTES = 1 << 30
"""Most memory that features are kept in; of more images, as many as fit are drawn at random."""
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the squared norm that are tried."""
_HELD_OUT = 0.2


def arch_for_classes(arch: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """``arch`` with another number of classes, in every trunk that it is made of."""

    def changed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: classes if key == "classes" else changed(inner) for key, inner in value.items()}
        return value

    result = changed(arch)
    assert isinstance(result, dict)
    return result


def for_classes(net: AnytimeNet, classes: int) -> tuple[AnytimeNet, frozenset[str]]:
    """A net like another one, with its weights, for another number of classes.

    What depends on the number of classes, the last layer of each head, starts anew, even where the number is the same.

    Args:
        net: The net.
        classes: Number of classes of the new one.

    Returns:
        The new net, on the CPU, and the names of the parameters that start anew.

    Raises:
        UsageError: There is no layer that depends on the number of classes.
    """
    arch = arch_of(net)
    made = build(arch_for_classes(arch, classes))
    other = tensors_of(build(arch_for_classes(arch, classes + 1), device="meta"))
    fresh = frozenset(name for name, tensor in tensors_of(made).items() if other[name].shape != tensor.shape)
    if not fresh:
        raise UsageError(f"a {type(net).__name__} has no layer that depends on its classes", "train another net")
    old = tensors_of(net)
    with torch.no_grad():
        for name, tensor in tensors_of(made).items():
            if name not in fresh:
                tensor.copy_(old[name])
    return made, fresh


def fit_classifiers(
    net: AnytimeNet,
    split: Split,
    preprocessing: Preprocessing,
    fresh: Collection[str],
    *,
    device: torch.device,
    batch_size: int = 64,
    amp: Amp = "auto",
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fit the new linear layers of a net by logistic regression on what the rest of it sees, which stays as it is.

    Every image goes through the net once; what comes in at each new layer is kept, and the layer is then fitted by
    L-BFGS. The weight of the squared norm is chosen on a fifth of the images that is left out at first. A layer that
    several members share sees the images at every resolution.

    New layers that are not linear, and linear ones for which there is not enough memory, stay as they are.

    Args:
        net: The net, changed in place; on ``device`` and in evaluation mode afterwards.
        split: The images to fit on, cut as in validation.
        preprocessing: What they go through.
        fresh: Names of the new parameters, as :func:`for_classes` gives them.
        device: Where the net runs.
        batch_size: Images in a batch.
        amp: Type that is computed in.
        seed: What images are left out, or drawn where there are too many.
        on_progress: Called with the number of images done and their total.
    """
    layers = {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in fresh
    }
    if not layers:
        return
    net.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    split = _as_many_as_fit(net, layers, split, seed)
    features, labels = _features(net, layers, split, preprocessing, device, batch_size, amp, on_progress)
    held = torch.rand(len(labels), generator=generator("holdout", seed, len(labels))) < _HELD_OUT
    for name, layer in layers.items():
        _fit(layer, features.pop(name), labels.to(device), held.to(device))


def _as_many_as_fit(net: AnytimeNet, layers: Mapping[str, nn.Linear], split: Split, seed: int) -> Split:
    bytes_each = 4 * sum(layer.in_features for layer in layers.values()) * len(net.members())
    most = max(1, MAX_FEATURE_BYTES // bytes_each)
    if len(split) <= most:
        return split
    return split.subset(torch.randperm(len(split), generator=generator("limit", seed, len(split)))[:most])


def _features(
    net: AnytimeNet,
    layers: Mapping[str, nn.Linear],
    split: Split,
    preprocessing: Preprocessing,
    device: torch.device,
    batch_size: int,
    amp: Amp,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, list[Tensor]], Tensor]:
    """For each layer what comes in, float32 [N, features] for each time that it runs; and the labels, int64 [N]."""
    kept: dict[str, list[list[Tensor]]] = {name: [] for name in layers}
    labels: list[Tensor] = []
    batches = split.eval_batches(
        batch_size=batch_size,
        resolution_px=resolution_of(net),
        device=device,
        crop=preprocessing.crop,
        interpolation=preprocessing.interpolation,
    )
    with torch.no_grad(), closed(batches), _watched(layers) as seen:
        for batch in batches:
            images = normalised(batch.images, preprocessing)
            with autocast(device, amp):
                for _ in exits_of(net, images, preprocessing):
                    pass
            for name, inputs in seen.items():
                for run, value in enumerate(inputs):
                    if run == len(kept[name]):
                        kept[name].append([])
                    kept[name][run].append(value.float())
                inputs.clear()
            labels.append(batch.labels.cpu())
            if on_progress is not None:
                on_progress(sum(map(len, labels)), len(split))
    return {name: [torch.cat(run) for run in runs] for name, runs in kept.items()}, torch.cat(labels)


@contextmanager
def _watched(layers: Mapping[str, nn.Linear]) -> Iterator[dict[str, list[Tensor]]]:
    """While in the block, what comes into each layer is appended to its list."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def watcher(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: seen[name].append(inputs[0].detach())

    handles = [layer.register_forward_pre_hook(watcher(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _fit(layer: nn.Linear, runs: list[Tensor], labels: Tensor, held: Tensor) -> None:
    inputs = torch.cat(runs)
    del runs[1:]
    times = len(inputs) // len(labels)
    labels, held = labels.repeat(times), held.repeat(times)
    if inputs.ndim != 2 or len(inputs) != len(labels):
        return  # not a classifier of whole images
    mean, std = inputs.mean(0), inputs.std(0, correction=0)
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    scaled = (inputs - mean) / std
    classes = layer.out_features

    penalty = _PENALTIES[1]
    if 0 < int(held.sum()) < len(held):
        losses = []
        weight = None
        for tried in _PENALTIES:
            weight, bias = _regression(scaled[~held], labels[~held], classes, tried, start=weight)
            losses.append(float(F.cross_entropy(scaled[held] @ weight.T + bias, labels[held])))
        penalty = _PENALTIES[losses.index(min(losses))]
    weight, bias = _regression(scaled, labels, classes, penalty)
    with torch.no_grad():
        layer.weight.copy_(weight / std)
        if layer.bias is not None:
            layer.bias.copy_(bias - (weight / std) @ mean)


def _regression(
    inputs: Tensor, labels: Tensor, classes: int, penalty: float, *, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weight [classes, features] and bias [classes] of a logistic regression, ``penalty / 2 * |weight|²`` added."""
    weight = torch.zeros(classes, inputs.shape[1], device=inputs.device) if start is None else start.clone()
    bias = torch.zeros(classes, device=inputs.device)
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight.T + bias, labels) + penalty / 2 * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
