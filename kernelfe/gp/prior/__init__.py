"""The Gaussian-process prior: terms, mean functions and the rows that read them."""
