"""Retry objectives for continuous control: order-statistic gradients, networks, replay and training functions."""
