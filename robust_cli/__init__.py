"""robust: train, certify and attack image classifiers."""

__version__ = "0.1.0"
