"""Writing data sets in the formats of the field."""
