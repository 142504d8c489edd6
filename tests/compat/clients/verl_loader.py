"""Loads the page's reward file as verl's trainer does; the packages around need torch."""

import json
import sys
import sysconfig
from pathlib import Path
from types import ModuleType, SimpleNamespace

given = json.load(sys.stdin)
HOME = Path(sysconfig.get_path("purelib")) / "verl"


def package(name: str, *below: str) -> ModuleType:
    """Stand in for a package whose own module needs torch; modules below it are verl's."""
    module = ModuleType(name)
    module.__path__ = [str(HOME.joinpath(*below))]
    sys.modules[name] = module
    return module


package("verl").DataProto = object  # type: ignore[attr-defined]
package("verl.utils", "utils")
score = package("verl.utils.reward_score", "utils", "reward_score")
score.get_default_compute_score = None  # type: ignore[attr-defined]
package("verl.trainer", "trainer")
package("verl.trainer.ppo", "trainer", "ppo")

from verl.trainer.ppo.reward import (  # type: ignore[import-not-found] # noqa: E402
    get_custom_reward_fn,
)

config = SimpleNamespace(
    reward={"custom_reward_function": {"path": given["path"], "name": "compute_score"}}
)
reward = get_custom_reward_fn(config)
row = {"data_source": "capitals", "ground_truth": "Paris", "extra_info": {"index": 0}}
answers = [reward(solution_str=text, **row) for text in ("Paris", "Lyon")]
print(json.dumps(answers))  # noqa: T201
