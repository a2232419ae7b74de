"""What learns: experience, the training functions, the loop around them, evaluation, snapshots and devices."""
