"""The run folder: where everything goes, what was done, and how it can be redone."""
