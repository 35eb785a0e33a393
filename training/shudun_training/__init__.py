"""Training side of shudun: data, fine-tuning, calibration, export and evaluation.

Needs the `train` extra; imports `shudun` for everything that scoring shares with it.
"""
