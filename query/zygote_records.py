"""The records that pools and the zygote exchange; apart, so that a pool need not import what the zygote does."""

import struct

RECORD = struct.Struct("<cii")  # kind, process number, status
FORK, KILL, RUNNER, ENDED = b"F", b"K", b"R", b"E"
NONE = 0  # the number of a runner that could not be made
EXIT_FAILED, EXIT_MEMORY = 70, 71  # how a runner that was not killed tells why it ended
