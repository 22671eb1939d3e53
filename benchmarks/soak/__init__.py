"""Load on one server for a long time, to see whether its memory grows: `make benchmark-leak`, `make benchmark-soak`."""
