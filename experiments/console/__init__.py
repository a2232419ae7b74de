"""What a person types and sees: settings, signals, progress bars and messages."""
