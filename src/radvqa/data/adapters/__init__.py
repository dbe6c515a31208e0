"""The data sets that radvqa reads, one per file: a module here is a name for recipes and for the audit."""
