"""Makes the tools importable; appended, because some have names such as `test`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / 'tools'))
