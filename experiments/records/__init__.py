"""What a run leaves behind: the files of its directory, where it came from, checkpoints, and W&B."""
