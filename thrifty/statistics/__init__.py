"""Is it good, is it stable, or was it luck: numbers from tables and genotypes. Nothing here trains, draws or writes a file."""
