"""int8: which kind of it a target wants, and the calibration on real images."""
