"""thrifty: very small segmentation networks for medical images, found under a parameter budget."""

__version__ = "0.1.0"
