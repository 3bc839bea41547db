"""What runs on the device: measures one artifact in one fresh process. Standard library only, Python 3.8 and newer."""
