"""From a saved policy to files that act without this project."""
