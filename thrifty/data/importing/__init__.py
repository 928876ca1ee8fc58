"""`thrifty data import`: images and masks as hospitals have them, into the nnU-Net v2 layout, without names of patients."""
