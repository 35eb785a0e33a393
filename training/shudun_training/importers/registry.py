"""Every source and format that can be imported, by the name that the command takes."""

from __future__ import annotations

from collections.abc import Mapping

from shudun_training.importers import (
    argilla,
    cold,
    datasets_folder,
    doccano,
    label_studio,
    paddlenlp,
    swsr,
    telecom_fraud,
    tg_spam,
    toxicn,
    wide_csv,
)
from shudun_training.importers.contract import Planner

PUBLISHED: Mapping[str, Planner] = {
    "cold": cold.plan,
    "toxicn": toxicn.plan,
    "swsr": swsr.plan,
    "tg_spam": tg_spam.plan,
    "telecom_fraud": telecom_fraud.plan,
}
"""Published data sets: the input is the folder of their original files, and they need no options."""

OWN_DATA: Mapping[str, Planner] = {
    "doccano": doccano.plan,
    "label-studio": label_studio.plan,
    "argilla": argilla.plan,
    "paddlenlp": paddlenlp.plan,
    "wide-csv": wide_csv.plan,
    "dataset": datasets_folder.plan,
}
"""Formats of one's own data: they need a taxonomy."""

IMPORTERS: Mapping[str, Planner] = {**PUBLISHED, **OWN_DATA}
