"""Images and masks: found, checked, decoded once, split by patient, normalised and cut into training batches."""
