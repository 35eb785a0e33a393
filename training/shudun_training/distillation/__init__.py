"""Distillation: a student learns from teachers' scores on labelled rows and on unlabelled texts in any amount."""
