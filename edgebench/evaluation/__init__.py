"""Accuracy on real data: data sets, how their images become inputs, metrics and paired tests."""
