"""Blending: several runs' probabilities pooled to one, with weights and a temperature fitted on rows new to all."""
