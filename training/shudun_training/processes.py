"""Which process this is, by what a launcher (`accelerate launch`, `torchrun`) sets; one of one without a launcher.

Known before torch.distributed is: rows are read and the run folder is begun before any process group exists.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def process_count() -> int:
    """Processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the one process that writes files."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def written_by_main(folder: Path) -> Iterator[Path]:
    """The folder to write into: `folder` for the main process, one that vanishes for the others."""
    if is_main_process():
        yield folder
        return
    with TemporaryDirectory() as elsewhere:
        yield Path(elsewhere)
