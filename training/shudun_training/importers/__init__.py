"""Labelled data from elsewhere, turned into the item format: published data sets and annotation formats.

One module each; `registry` names them, `runner` reads, checks, splits and writes.
"""

from shudun_training.importers.command import import_dataset
from shudun_training.importers.registry import IMPORTERS, OWN_DATA, PUBLISHED

__all__ = ["IMPORTERS", "OWN_DATA", "PUBLISHED", "import_dataset"]
