"""The versions of the peers that are installed, as one JSON line."""
import importlib.metadata
import json
import platform

found = {"Python": platform.python_version()}
for name in ("torch", "transformers", "trl", "peft", "accelerate", "llama-cpp-python"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
