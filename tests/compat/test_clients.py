"""Other people's Python clients against our service, as their packages on PyPI have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.api.world import Live
from tests.dialects.pages import snippet

Run = Callable[..., Any]
VERSIONS = "graders/capital/versions/1"


class TestEvalProtocol:
    """PyPI eval-protocol 0.3.33, ``RewardFunction(mode="remote")``."""

    def test_the_snippet_scores_and_failures_raise(self, live: Live, run_client: Run) -> None:
        strict, judged = (
            f"{live.url}/v1/graders/{name}/versions/1/rewards/eval-protocol"
            for name in ("strict", "judged")
        )
        # The client drops the mark of the third, which is why an error is the default.
        failing = [strict, judged, f"{strict}?on_grader_failure=mark"]
        given = {"snippet": snippet("eval-protocol", "remote.py", url=live.url), "failing": failing}
        found = run_client("eval-protocol", "eval_protocol_remote.py", given)
        assert (found["score"], found["reason"]) == (1.0, "capital@1")
        assert found["raised"][0].startswith("422 Client Error")
        assert found["raised"][1].startswith("503 Server Error")
        assert found["raised"][2] == 0.0


class TestOpenRLHF:
    """PyPI openrlhf 0.11.2, ``SingleTurnAgentExecutor`` (its agent module alone)."""

    def url(self, live: Live, grader: str, query: str = "") -> str:
        flag = snippet("openrlhf", "flag", url=live.url).split('"')[1]
        return flag.replace("capital", grader) + query

    def test_a_right_and_a_wrong_answer(self, live: Live, run_client: Run) -> None:
        for response, reward in (("Paris</s>", 1.0), ("Lyon</s>", 0.0)):
            given = {"url": self.url(live, "capital"), "response": response}
            found = run_client("openrlhf", "openrlhf_agent.py", given)
            assert found == {"reward": [reward], "scores": [reward], "extra_logs": {}}

    def test_a_failure_ends_as_no_reward(self, live: Live, run_client: Run) -> None:
        given = {"url": self.url(live, "judged"), "response": "Paris</s>"}
        found = run_client("openrlhf", "openrlhf_agent.py", given)
        assert found == {"reward": None, "scores": None, "extra_logs": {}}

    def test_a_chosen_zero_is_logged(self, live: Live, run_client: Run) -> None:
        url = self.url(live, "strict", "?on_grader_failure=zero")
        found = run_client("openrlhf", "openrlhf_agent.py", {"url": url, "response": "Paris"})
        assert found["reward"] == [0.0]
        assert found["extra_logs"] == {"grader_failed": [1.0]}


class TestVerifiers:
    """PyPI verifiers 0.4.0, ``NeMoGymTask``: /seed_session, then /verify."""

    def url(self, live: Live, grader: str) -> str:
        toml = snippet("nemo-gym", "verifiers", url=live.url)
        base = next(line for line in toml.splitlines() if line.startswith("resources_url"))
        return base.split('"')[1].replace("capital", grader)

    def test_rewards_arrive_and_failures_raise(self, live: Live, run_client: Run) -> None:
        capital, strict, judged = (self.url(live, name) for name in ("capital", "strict", "judged"))
        # The client ignores the marks and takes the 0.0, which is why an error is the default.
        marked = strict.replace("/graders/", "/with/on_grader_failure=mask/graders/")
        found = run_client(
            "verifiers",
            "verifiers_nemo_gym.py",
            {
                "right": {"url": capital, "response": "Paris"},
                "wrong": {"url": capital, "response": "Lyon"},
                "strict": {"url": strict, "response": "Paris"},
                "judged": {"url": judged, "response": "Paris"},
                "marked": {"url": marked, "response": "Paris"},
            },
        )
        assert (found["right"]["reward"], found["wrong"]["reward"]) == (1.0, 0.0)
        assert found["right"]["info"] == {"label": "Paris", "options": ["Paris", "Lyon"]}
        for name, status in (("strict", "422"), ("judged", "503")):
            assert found[name]["raised"] == "HTTPStatusError"
            assert status in found[name]["text"]
        assert found["marked"]["reward"] == 0.0
        assert found["marked"]["metrics"]["mask_sample"] == 1.0


class TestVerl:
    """PyPI verl 0.9.1, ``get_custom_reward_fn``."""

    def test_the_page_s_file_is_loaded_and_called(
        self, live: Live, run_client: Run, tmp_path: Path
    ) -> None:
        file = tmp_path / "reward.py"
        file.write_text(snippet("native", "reward.py", url=live.url))
        assert run_client("verl", "verl_loader.py", {"path": str(file)}) == [1.0, 0.0]


class TestSageMaker:
    """PyPI sagemaker-train 1.27.0, ``verify_reward_function`` on our Lambda."""

    def verify(self, live: Live, run: Run, samples: list[Any], grader: str) -> Any:
        file = Path(__file__).parents[2] / "deploy" / "lambda" / "forwarder.py"
        url = snippet("aws", "environment", url=live.url).split('"')[1]
        given = {
            "path": str(file),
            "samples": samples,
            "is_nova": "reference_answer" in samples[0],
        }
        environ = {"GRADER_URL": url.replace("capital", grader)}
        return run("sagemaker", "sagemaker_verifier.py", given, **environ)

    def test_nova_and_open_weights(self, live: Live, run_client: Run) -> None:
        turns = [
            {"role": "user", "content": "Capital of France?"},
            {"role": "assistant", "content": "Paris"},
        ]
        nova = {"id": "s1", "messages": turns, "reference_answer": "Paris"}
        weights = {"id": "s1", "messages": turns, "metadata": {"reference_answer": "Lyon"}}
        for sample, reward in ((nova, 1.0), (weights, 0.0)):
            found = self.verify(live, run_client, [sample, sample], "capital")
            assert (found["success"], found["successful_samples"]) == (True, 2)
            assert found["results"][0]["output"]["aggregate_reward_score"] == reward

    def test_a_failure_fails_the_invocation(self, live: Live, run_client: Run) -> None:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x"}]
        nova = {"id": "s1", "messages": turns, "reference_answer": "x"}
        found = self.verify(live, run_client, [nova], "judged")
        assert found["success"] is False
        assert "no reward in time; last: 503" in found["error"]
