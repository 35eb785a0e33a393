"""Processes of one launch, and waiting for what another of them writes.

They meet in files, not in collectives: those give up after minutes, and one process may score texts for hours. A
launcher ends all processes when one fails, so nobody waits for the dead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

POLL_SECONDS = 0.2


def rank() -> int:
    """Number of this process, 0 where there is only one; set by `accelerate launch` and `torchrun`."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait_until(ready: Callable[[], bool]) -> None:
    """Return as soon as `ready()` holds."""
    while not ready():
        time.sleep(POLL_SECONDS)
