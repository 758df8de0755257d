"""The options of the Hydra group `curriculum`."""
