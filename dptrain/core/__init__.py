"""Values, errors and the store that all other packages stand on."""
