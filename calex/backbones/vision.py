"""`torchvision`, importable also beside a build of torch that its compiled operators do not fit.

torchvision's C++ operators are built for one flavour of torch (PyPI's for CUDA). Beside a CPU-only torch they
do not load, and `import torchvision` then stops at registering a fake kernel for `torchvision::nms`.
Image classification needs none of these operators: declaring the schemas of the two that are looked up is
enough. With matching builds the operators exist and nothing is declared.
"""

from __future__ import annotations

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # kept alive: a library's declarations go with it

try:
    import torchvision
except RuntimeError:
    _library = torch.library.Library("torchvision", "DEF")
    for _schema in _SCHEMAS.values():
        _library.define(_schema)
    _declared.append(_library)
    import torchvision

models = torchvision.models

__all__ = ["models", "torchvision"]
