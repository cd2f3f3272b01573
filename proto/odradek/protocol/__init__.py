"""What the contract's schema cannot say: identifiers, errors, batches, names, hashing. Pure."""
