"""Real devices to test against on one machine: an sshd or an adbd behind a link of its own that can be cut.

Everything of a bed lies in namespaces of its own (network, mounts, processes, host name) that processes of the test
run hold open, and those processes die with the run. So a run that is killed leaves neither process nor mount nor link
behind.
"""
