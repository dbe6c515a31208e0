"""Drawn anatomy: what the phantom corpus is made of."""
