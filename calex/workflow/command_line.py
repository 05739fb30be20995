"""What Snakemake was asked with: which config files lie over one another, and the options that make a report again."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Jobs that another process runs are given the same config files, but not this option: the environment tells them.
ALONE = "CALEX_CONFIG_ALONE"


@dataclass(frozen=True)
class CommandLine:
    """Options as they were typed.

    Attributes
    ----------
    default
        The config file that Snakemake reads by itself; None where there is none, or where others replace it.
    files
        What followed `--configfile`; paths below the working directory are relative to it.
    values
        What followed `--config`, `key=value` each.
    alone
        Whether `files` replace the default config (`--replace-workflow-config`).
    snakefile
        The workflow's file where it is not the one that Snakemake takes by itself.
    """

    default: str | None
    files: list[str]
    values: list[str]
    alone: bool
    snakefile: str | None

    @property
    def layers(self) -> list[str]:
        """The config files, the later over the earlier."""
        return ([] if self.default is None else [self.default]) + self.files

    @property
    def where(self) -> str:
        """Where the config comes from, for errors: with absolute paths, whatever folder they were typed in."""
        whole = [os.path.abspath(file) for file in self.files]
        return " + ".join([*([] if self.default is None else [self.default]), *whole, *(["--config"] if self.values else [])])

    @property
    def options(self) -> str:
        """Quoted for a shell, each option after a space; nothing where none was typed."""
        words: list[str] = []
        if self.snakefile is not None:
            words += ["--snakefile", self.snakefile]
        if self.alone:
            words += ["--replace-workflow-config"]
        if self.files:
            words += ["--configfile", *self.files]
        if self.values:
            words += ["--config", *self.values]
        return "".join(f" {shlex.quote(word)}" for word in words)


def read(workflow: Any, default: str) -> CommandLine:
    """The command line of Snakemake's `workflow`, for the config file `default`; processes that it starts will know it too."""
    alone = bool(getattr(workflow.config_settings, "replace_workflow_config", False)) or ALONE in os.environ
    if alone:
        os.environ[ALONE] = "1"
    here = Path.cwd()
    return CommandLine(
        default=default if Path(default).exists() and not alone else None,
        files=[
            os.path.relpath(file) if Path(file).is_relative_to(here) else str(file) for file in workflow.overwrite_configfiles
        ],
        values=list(workflow.config_settings.config_args or []),
        alone=alone,
        snakefile=None if Path(workflow.main_snakefile) == here / "workflow" / "Snakefile" else str(workflow.main_snakefile),
    )
