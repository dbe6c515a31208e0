"""The model: embedded base, tiny base, layouts, adapters."""
