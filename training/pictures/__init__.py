"""A report as pictures and as a page: what analysts look at who compare runs."""
