"""What a person runs. Hydra, W&B, files and progress bars live here only."""
