"""How trained networks hold up: under worse images, on small objects, by subgroup, in the worst patients, on other data."""
