"""The network inside CVAT: functions that ``cvat-cli`` loads by the names of their modules.

``resurgsam2_cli.cvat.detection`` finds what is named in words, ``.tracking`` follows a shape from frame to frame, and
``.interaction`` makes a mask of clicks and boxes. Each has a ``create`` whose parameters are those of ``cvat-cli -p``.
They need ``cvat_sdk``, of the extra ``cvat``; nothing else in the program does.
"""

from __future__ import annotations

from resurgsam2_cli.process.tuning import prepare_environment

try:
    from cvat_sdk.auto_annotation import InteractionFunctionSpec  # the newest of what is used
except ImportError as error:
    raise ImportError(
        f"{__name__} needs cvat-cli 2.71 or newer: install resurgsam2 with its extra 'cvat' (resurgsam2[cvat]), "
        "or pip install 'cvat-cli>=2.71'"
    ) from error

del InteractionFunctionSpec
prepare_environment()  # before any of the modules brings torch
