"""What holds in a notebook where nothing else is said; config/README.md explains each key."""

from __future__ import annotations

from typing import Any

# What the branches are and how they learn, and which images leave: as `calex_best` of config.yaml, which the studies support.
METHOD = {
    "recipe": {"name": "boostnet", "learning_rate": 0.01, "weight_decay": 0.0001}, "head": {"name": "auto"},
    "target": {"name": "fading"}, "weighting": {"name": "uniform"}, "shared_core": False, "score": "max_softmax", "correct": "label",
}  # fmt: skip
POLICY = "budgeted"
# How features are stored.
CACHING: dict[str, Any] = {
    "views": 1,
    "precision": "float16",
    "codec": "none",
    "compute": "float32",
    "batch_size": 256,
    "order_seed": 0,
}
# How the rows of a sweep are called.
KEY: dict[str, Any] = {
    "dataset": "attached",
    "backbone": "network",
    "method": "attached",
    "variant": "default",
    "policy": "policy",
    "seed": 0,
}
