"""Run a script on one core, with its arguments: `pinned.py CORE SCRIPT`, or `pinned.py CORE -m MODULE`.

ONNX Runtime uses AMX only where a process may use two cores when it is imported: a container whose processor time is limited
may, a process that is pinned before may not.
"""

import os
import runpy
import sys

import onnxruntime  # noqa: F401 - before the process is pinned

os.sched_setaffinity(0, {int(sys.argv[1])})
is_module = sys.argv[2] == "-m"
sys.argv = sys.argv[3 if is_module else 2 :]
if is_module:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
