"""The CIFAR-10 experiment: its systems, how they are trained and measured, its tables and its figure."""
