"""The stages of dvc.yaml, one script each: `python -m stages.<name>` from the project's folder."""

import signal
import sys

# By `python -m`, before the script's own imports, which may take seconds: Ctrl-C then ends the process without a
# traceback. Once they are done `front.run` tells of it in words.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
