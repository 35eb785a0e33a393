"""Labelled rows written for annotation tools; each format is the inverse of its importer."""

from shudun_training.exporters.command import export_rows

__all__ = ["export_rows"]
