"""Networks: derived from a genotype, supernets of a space, and the baselines."""
