"""What one inference takes, counted on the network and not measured: one file per format."""
