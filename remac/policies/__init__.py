"""What acts: distributions, networks, observation normalisation, and the saved policy."""
