"""Hydra's search path `pkg://gainrl.integrations.verl.config`: the group `curriculum`, option `gainrl`."""
