"""What may be searched: ops with exact costs, the lattice, genotypes, exact decoding. No torch in here."""
