"""What leaves a run: adapter repositories, merged checkpoints, model cards, and the proof that they load elsewhere."""
