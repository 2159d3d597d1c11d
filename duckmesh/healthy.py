"""`python -m duckmesh.healthy http://HOST:PORT/PATH | /path/of/a.sock`: status 0 if somebody answers there, else 1.

For the health checks of containers, whose image holds no curl. Nothing of DuckMesh is imported, so it is quick.
"""

import socket
import sys
import urllib.request

SECONDS = 5


def healthy(address: str) -> bool:
    """Whether a server answers 200 at this address, or takes a connection at this socket."""
    try:
        if address.startswith("/"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(SECONDS)
                probe.connect(address)
            return True
        if not address.startswith("http://"):
            return False
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if healthy(sys.argv[1]) else 1)
