#!/usr/bin/env python3
"""Says what is wrong with an environment for mmkd_fm, and the exact remedy.

Prints the versions, which compiled operators of mmcv work (they are really run, on the GPU too
where there is one), and what the known traps of this stack have to say. It also runs where torch or
mmcv is missing or broken: everything is imported in a process of its own.

Exit code: 1 if something is broken, else 0.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from doctor_probe import DISTRIBUTIONS, MODULES, OPS, run_probe

PIP = f'{sys.executable} -m pip'
MMCV_REMEDY = (
    f'{PIP} uninstall -y mmcv mmcv-lite mmcv-full; '
    f"{PIP} install 'setuptools<81' wheel ninja psutil; "
    f'MMCV_WITH_OPS=1 {PIP} install --no-build-isolation --no-deps --no-cache-dir '
    '--no-binary mmcv mmcv==2.1.0   (or make env, which also takes a prebuilt wheel where it can)'
)
