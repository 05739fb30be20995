"""The journal of a dump: which chunks are complete, so that a dump that was killed continues after them."""

from __future__ import annotations

import json
from pathlib import Path

from calex.features import chunks
from calex.features.chunks import Entry
from calex.system.progress import track
from calex.system.replacing import replacing


def journal_line(where: str, entry: Entry) -> str:
    """The journal's entry for one chunk, as a line of JSON."""
    return json.dumps([where, *entry]) + "\n"


def write_journal(path: Path, entries: dict[str, Entry]) -> None:
    """Rewrite the journal, so that a line that a kill left incomplete does not damage the next one."""
    with replacing(path) as partial:
        partial.write_text("".join(journal_line(where, entry) for where, entry in entries.items()), encoding="utf-8")


def resumed(store: Path, journal: Path) -> dict[str, Entry]:
    """The journaled chunks whose files still have the journaled checksum."""
    entries: dict[str, Entry] = {}
    if not journal.exists():
        return entries
    lines = journal.read_text(encoding="utf-8").splitlines()
    for line in track(lines, f"{store.parent}: check written chunks", len(lines), "chunk"):
        try:
            where, *entry = json.loads(line)
        except ValueError:  # it was being written when the dump was killed
            continue
        if (store / where).is_file() and chunks.sha256_of(store / where) == entry[-1]:
            entries[where] = Entry(*entry)
    return entries
