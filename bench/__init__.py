"""The benchmark: a fake upstream, a load generator, and one gateway process between them."""
