"""shudun (薯盾): scoring of Chinese social notes and comments for violation labels.

Light by design: importing this package loads numpy and tokenizers, never the training stack.
"""

from shudun.bundle import read_bundle
from shudun.errors import BundleError, DeviceError, RowError, ShudunError, TaxonomyError
from shudun.items import Comment, Note
from shudun.scorer import ScoredItem, Scorer
from shudun.taxonomy import Label, Taxonomy
from shudun.version import __version__

__all__ = [
    "BundleError",
    "Comment",
    "DeviceError",
    "Label",
    "Note",
    "RowError",
    "ScoredItem",
    "Scorer",
    "ShudunError",
    "Taxonomy",
    "TaxonomyError",
    "__version__",
    "read_bundle",
]
