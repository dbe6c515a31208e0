"""What the engine costs beside what a user would write from the documentation, measured in one process run."""
