"""What is read beside the clock, one file a probe."""
