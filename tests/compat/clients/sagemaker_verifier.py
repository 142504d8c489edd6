"""Runs the SageMaker SDK's reward verifier on our Lambda; no cloud is asked for a file."""

import importlib.util
import json
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

given = json.load(sys.stdin)
for name in ("sagemaker", "sagemaker.core", "sagemaker.core.training"):
    sys.modules[name] = ModuleType(name)
configs = ModuleType("sagemaker.core.training.configs")  # the SDK's core is 300 MB of clients
configs.TrainingJobCompute = configs.HyperPodCompute = type("Compute", (), {})  # type: ignore[attr-defined]
sys.modules[configs.__name__] = configs
below = ("sagemaker", "train", "common_utils", "rlvr_reward_verifier.py")
path = Path(sysconfig.get_path("purelib")).joinpath(*below)
spec = importlib.util.spec_from_file_location("verifier", path)
assert spec is not None
assert spec.loader is not None
verifier = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verifier)

try:
    found = verifier.verify_reward_function(
        given["path"], given["samples"], is_nova=given["is_nova"]
    )
except ValueError as error:
    found = {"success": False, "error": str(error)}
print(json.dumps(found))  # noqa: T201
