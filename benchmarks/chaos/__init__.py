"""Ten minutes in which everything around two servers goes wrong: `make benchmark-chaos`."""
