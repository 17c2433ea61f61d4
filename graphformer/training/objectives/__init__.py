"""Losses on graphs beside those of labels: contrast, discrimination, distillation, clusters."""
