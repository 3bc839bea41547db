"""What the user gave: which kind of file or factory it is, its architecture, and the network in memory."""
