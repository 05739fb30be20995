"""What a Slurm cluster says about itself: whether it has GPUs, and whether it keeps accounts of finished jobs."""

from __future__ import annotations

import subprocess
from functools import cache


@cache
def answer(*command: str) -> str:
    """What one of Slurm's commands prints; nothing where it is not installed or does not get through."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def has_gpus() -> bool:
    """Does any node offer GPUs (its GRES, `gpu:a100:4`)?"""
    return any(
        gres.startswith("gpu") for line in answer("sinfo", "--noheader", "--format=%G").split() for gres in line.split(",")
    )


def has_accounting() -> bool:
    """Can `sacct` tell how a job ended? Without accounting only `squeue` can, for some minutes."""
    settings = {
        key.strip(): value.strip()
        for key, separator, value in (line.partition("=") for line in answer("scontrol", "show", "config").splitlines())
        if separator
    }
    return settings.get("AccountingStorageType", "(null)") not in {"accounting_storage/none", "(null)", ""}
