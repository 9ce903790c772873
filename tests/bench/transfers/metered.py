"""Run a command and write what it took: seconds, CPU seconds, peak memory. Usage: metered.py OUTPUT COMMAND...

A small process of its own: the peak memory of a child begins with that of the process that starts it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

began = time.perf_counter()
done = subprocess.run(sys.argv[2:], check=False)
seconds = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
took = {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_rss_mib": used.ru_maxrss / 1024}
Path(sys.argv[1]).write_text(json.dumps(took), encoding="utf-8")
sys.exit(done.returncode)
