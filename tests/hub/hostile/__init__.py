"""Files made to do harm: each must fail closed."""
