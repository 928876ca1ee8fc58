"""Stage 6, `thrifty export`: a trained network in the forms that others can use, each checked before it is left behind."""
