"""pref_dist: exact, durable, fast distributed fine-tuning of preference cross-encoders."""

__version__ = "0.1.0.dev0"
