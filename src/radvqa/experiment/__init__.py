"""Experiments: every cell of a recipe run with every seed, and a page that says what follows from it. No torch here."""
