"""Small studies that make retry objectives understandable: `python -m experiments.toy study=<name>`."""
