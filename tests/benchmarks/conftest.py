import sys
from pathlib import Path

# A benchmark is a script and finds its neighbours beside it.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
