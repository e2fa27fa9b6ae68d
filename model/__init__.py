"""ReSurgSAM2 (MICCAI 2025): the network and the two-stage algorithm. Tensors in, tensors out.

Nothing here reads files, prints or knows of a command line. A video is segmented like this::

    prompts = network.encode_text(["left grasper", "kidney"])
    segmenter = Segmenter(network, prompts)
    for frame in frames:                                    # (height, width, 3) uint8
        features = network.encode_image(preprocess([frame], network.config))
        mask_logits, objects = segmenter.step(features)     # (objects, size / 4, size / 4)
        masks = resize_masks(mask_logits, height, width) > 0

Symbols in shapes: *objects* one row a prompt; *frames* a batch of frames; *size* the side of the network's input
(512); *s* the side of the main map, size / 16; *dim* the model's width (256); *N* tokens of a text.

Where the paper's parts are: CSTMamba in ``cross_modal_mamba``, CIFS in ``initial_frame``, DLM in ``memory_bank``.
"""

from model.config import HIERA_SMALL, NetworkConfig, Rules
from model.image_encoder import ImageFeatures
from model.network import Prediction, ReSurgSAM2
from model.preprocess import label_image, preprocess, resize_masks
from model.segmenter import ObjectState, Segmenter, Step
from model.session import Session
from model.text_encoder import Prompts

__all__ = [
    "HIERA_SMALL",
    "ImageFeatures",
    "NetworkConfig",
    "ObjectState",
    "Prediction",
    "Prompts",
    "ReSurgSAM2",
    "Rules",
    "Segmenter",
    "Session",
    "Step",
    "label_image",
    "preprocess",
    "resize_masks",
]
