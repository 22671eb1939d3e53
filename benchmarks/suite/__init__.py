"""The quality suite: every data set, all baselines, peers and published rows, in one report."""
