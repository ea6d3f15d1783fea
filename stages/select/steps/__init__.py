"""Steps that label or choose pairs, one module per kind."""
