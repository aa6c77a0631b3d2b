"""Trains and evolves a population of neural networks as one JAX program."""
