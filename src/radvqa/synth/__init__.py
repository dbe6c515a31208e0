"""Synthesis: captions in, screened and traceable question-answer pairs out."""
