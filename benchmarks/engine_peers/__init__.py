"""The engines beside which ours is measured, and the models that all of them run."""
