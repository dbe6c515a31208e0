"""Training: stages, feed, loss, loop, checkpoints."""
