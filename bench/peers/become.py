"""`python -m bench.peers.become PROGRAM ARGUMENT ...`: become that program, with the same pid.

`LocalProcess` starts Python modules; through this one it starts, watches and ends any program.
"""

import os
import sys

if __name__ == "__main__":
    os.execvp(sys.argv[1], sys.argv[1:])
