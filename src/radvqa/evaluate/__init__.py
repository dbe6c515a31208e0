"""Evaluation: predictions, scores, floors, intervals."""
