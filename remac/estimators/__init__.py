"""Order statistics of samples: gradients, advantages and exact values; usable without the rest of this project."""
