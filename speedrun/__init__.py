"""speedrun: the most accurate CIFAR-10 network that N seconds can buy."""

__version__ = "0.1.0"
