"""The engine beside what a user would write from the documentation, measured in one process run."""
