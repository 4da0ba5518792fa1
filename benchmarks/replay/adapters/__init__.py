"""What runs in the peers' environments: modules that import their peer, `protocol` and the standard library only."""
