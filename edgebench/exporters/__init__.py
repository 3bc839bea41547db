"""From a source to a bundle: one file per format, the chain that runs them, their parity and their cache."""
