"""From a configuration to finished runs: Hydra, jobs, populations, recording and resuming."""
