"""Live connections to devices, one file a transport."""
