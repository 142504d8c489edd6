"""Every adapter called as its trainer calls it; `tests/compat` runs the trainers' own code."""

import asyncio
import inspect
import logging
import pickle
import sys
import types
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import pytest

from service.trainers import areal, ms_swift, skyrl, tinker, torchtune, trl, verl
from service.trainers.errors import RefusedError, UnavailableError, UngradedError
from tests.trainers.servers import KEY, definition, flaky, good, status

JSON_PARIS = '{"answer": "Paris"}'
Where = Callable[..., dict[str, Any]]


@pytest.fixture
def where(url: str) -> Where:
    def settings(grader: str = "capital", **more: Any) -> dict[str, Any]:
        return {"url": url, "key": KEY, "grader": f"{grader}@1", **more}

    return settings


class TestTrl:
    """The trainer's call, word for word: everything by keyword, columns as lists."""

    @staticmethod
    def call(function: Any, completions: list[Any], **columns: Any) -> Any:
        logged: dict[str, Any] = {}
        given = function(
            prompts=[[{"role": "user", "content": "Capital of France?"}]] * len(completions),
            completions=completions,
            completion_ids=[[1, 2]] * len(completions),
            trainer_state=object(),
            log_extra=logged.__setitem__,
            log_metric=logged.__setitem__,
            environments=[object()] * len(completions),
            **columns,
        )
        return given, logged

    def test_conversational_completions_are_graded(self, where: Where) -> None:
        completions = [[{"role": "assistant", "content": text}] for text in ("Paris", "Rome")]
        images = [object(), object()]
        given, logged = self.call(
            trl.make_reward(**where("parts")), completions, answer=["Paris", "Paris"], image=images
        )
        assert given == [1.0, 0.0]
        assert logged == {
            "parts/outage": 0.0,
            "parts/ungraded": 0.0,
            "parts/exact": 0.5,
            "parts/part": 0.5,
            "parts/failure": ["", ""],
        }

    def test_plain_completions_and_prompts_are_graded(self, where: Where) -> None:
        reward = trl.make_reward(**where("prompted"))
        given = reward(prompts=["p", "q"], completions=["x", "y"], answer=["a", "b"])
        assert given == [1.0, 1.0]

    async def test_the_coroutine_function_is_one(self, where: Where) -> None:
        reward = trl.make_async_reward(**where())
        assert inspect.iscoroutinefunction(reward)
        assert reward.__name__ == "capital"
        given, _ = self.call(reward, ["Paris", "Rome"], answer=["Paris", "Paris"])
        assert await given == [1.0, 0.0]

    def test_what_cannot_be_graded_is_none_unless_a_number_is_wanted(self, where: Where) -> None:
        columns = {"prompts": ["", ""], "completions": ["x", JSON_PARIS], "answer": ["Paris"] * 2}
        assert trl.make_reward(**where("needs-json"))(**columns) == [None, 1.0]
        assert trl.make_reward(on_ungraded=0.0, **where("needs-json"))(**columns) == [0.0, 1.0]
        with pytest.raises(UngradedError, match="invalid_variable"):
            trl.make_reward(on_ungraded="raise", **where("needs-json"))(**columns)

    def test_an_outage_is_none_and_logged_as_one(self, caplog: pytest.LogCaptureFixture) -> None:
        with flaky(status(503, Retry_After="999")) as server:
            where = {"url": server.url, "grader": "a@1"}
            given, logged = self.call(trl.make_reward(**where), ["secret text"])  # type: ignore[arg-type] # a test's settings
            with pytest.raises(UnavailableError, match="server_unavailable"):
                self.call(trl.make_reward(on_outage="raise", **where), ["x"])  # type: ignore[arg-type] # a test's settings
        assert given == [None]
        assert logged == {
            "a/outage": 1.0,
            "a/ungraded": 0.0,
            "a/failure": ["server_unavailable"],
        }
        assert "a: 1 of 1 rows: server_unavailable" in caplog.text
        assert "secret" not in caplog.text

    def test_columns_can_be_chosen_and_renamed(self) -> None:
        with flaky(good) as server:
            settings = {"url": server.url, "grader": "a@1"}
            for fields in (["answer"], {"answer": "solution", "question": "prompt"}):
                reward = trl.make_reward(item_fields=fields, **settings)  # type: ignore[arg-type] # a test's settings
                reward(prompts=["p"], completions=["c"], answer=["a"], solution=["s"])
            assert [body["rows"][0]["item"] for body in server.bodies] == [
                {"answer": "a"},
                {"answer": "s", "question": "p"},
            ]

    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            ({"solution": ["s"]}, "there is no column 'answer'; there are solution, prompt"),
            ({"answer": ["a", "b"]}, "'answer' has 2 values for 1 rows"),
        ],
    )
    def test_columns_that_are_not_there_are_refused(
        self, where: Where, columns: dict[str, Any], said: str
    ) -> None:
        reward = trl.make_reward(item_fields=["answer"], **where())
        with pytest.raises(RefusedError, match=said):
            reward(prompts=["p"], completions=["c"], **columns)

    def test_completions_of_another_kind_are_refused(self, where: Where) -> None:
        with pytest.raises(RefusedError, match="expected a text or messages"):
            trl.make_reward(**where())(prompts=["p"], completions=[7], answer=["a"])

    def test_no_completions_are_no_rewards(self, where: Where) -> None:
        assert self.call(trl.make_reward(**where()), []) == ([], {"capital/failure": []})

    def test_without_a_graded_row_no_parts_are_logged(self) -> None:
        with flaky(status(503, Retry_After="999")) as server:
            _, logged = self.call(trl.make_reward(url=server.url, grader="parts@1"), ["x"])
        assert set(logged) == {"parts/outage", "parts/ungraded", "parts/failure"}


class TestVerl:
    """verl merges ``reward_kwargs`` into every call."""

    def test_a_response_is_graded(self, where: Where) -> None:
        call = partial(verl.compute_score, **where("truth"))
        answer = call(
            data_source="geo",
            solution_str="Paris",
            ground_truth="Paris",
            extra_info={"index": 3, "num_turns": None, "rollout_reward_scores": {}},
            reward_router_address="10.0.0.1:80",
            reward_model_tokenizer=object(),
        )
        assert answer == {"score": 1.0, "acc": 1.0, "ungraded": 0.0}

    async def test_the_coroutine_function_is_one(self, where: Where) -> None:
        assert inspect.iscoroutinefunction(verl.compute_score_async)
        calls = (
            verl.compute_score_async(
                "geo", text, "", {"answer": "Paris"}, item_fields=["answer"], **where("parts")
            )
            for text in ("Paris", "Rome")
        )
        assert await asyncio.gather(*calls) == [
            {
                "score": score,
                "acc": score,
                "ungraded": 0.0,
                "sub_rewards/exact": score,
                "sub_rewards/part": score,
            }
            for score in (1.0, 0.0)
        ]

    def test_every_answer_has_the_same_keys(self, where: Where) -> None:
        multi = {**definition("parts"), "graders": {"a": definition("needs-json")}}
        multi["calculate_output"] = "a"
        answers = [
            verl.compute_score(
                "", text, "", {"answer": "Paris"}, on_ungraded=-1.0, definition=multi
            )
            for text in (JSON_PARIS, "no json")
        ]
        assert answers[0].keys() == answers[1].keys()
        assert [answer["score"] for answer in answers] == [1.0, -1.0]
        assert [answer["ungraded"] for answer in answers] == [0.0, 1.0]

    def test_failures_raise(self, where: Where) -> None:
        with pytest.raises(UngradedError):
            verl.compute_score("", "no json", "", {"answer": ""}, **where("needs-json"))
        with pytest.raises(UnavailableError, match="judge_unavailable"):
            verl.compute_score("", "x", "", on_ungraded=0.0, **where("judged"))
        with pytest.raises(RefusedError, match="unknown setting 'grder'"):
            verl.compute_score("", "x", "", grder="a@1")  # type: ignore[call-arg] # the mistake

    def test_connections_are_kept_from_call_to_call(self) -> None:
        with flaky(good) as server:
            for _ in range(5):
                verl.compute_score("", "x", "", {}, url=server.url, grader="a@1")
        assert server.connections == 1


class TestMsSwift:
    """``reward_class(args=…)`` once, then positional completions and columns."""

    ROW: dict[str, Any] = {  # noqa: RUF012 - read only
        "messages": [
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}],
            [{"role": "user", "content": "q"}],
        ],
        "prompt_id": ["1", "2"],
        "response_token_ids": [[1], [2]],
        "trainer_state": object(),
        "add_eos": False,
        "name": "not a column",
        "answer": ["x", "y"],
    }

    def test_a_class_is_made_once_and_called_with_columns(self) -> None:
        with flaky(good) as server:
            kind = ms_swift.make_orm(url=server.url, grader="a@1")
            assert kind.__name__ == "a"
            instance = kind(args="the arguments")
            assert instance.args == "the arguments"
            assert instance(["x", "four"], **self.ROW) == [1.0, 4.0]
            assert [row["item"] for row in server.bodies[0]["rows"]] == [
                {"messages": [{"role": "user", "content": "q"}], "answer": "x"},
                {"messages": [{"role": "user", "content": "q"}], "answer": "y"},
            ]

    async def test_an_async_class_has_an_async_call(self, where: Where) -> None:
        instance = ms_swift.make_async_orm(**where())(args=None)
        assert inspect.iscoroutinefunction(instance.__call__)
        assert await instance(["x", "z"], answer=["x", "y"]) == [1.0, 0.0]

    def test_failures_raise_unless_none_is_asked_for(self, where: Where) -> None:
        with pytest.raises(UngradedError):
            ms_swift.make_orm(**where("needs-json"))()(["x"], answer=["y"])
        abstaining = ms_swift.make_orm(on_ungraded=None, on_outage=None, **where("needs-json"))
        assert abstaining()(["x"], answer=["y"]) == [None]


class TestAReaL:
    """Positional arguments and the row, in a worker process."""

    def test_a_completion_is_graded(self, where: Where) -> None:
        reward = areal.make_reward(**where())
        assert reward("prompt", "Paris", [1], [2], answer="Paris", messages=[]) == 1.0
        assert reward.reward.source.deadline_s == 12.0
        assert areal.make_reward(**where(deadline_s=3.0)).reward.source.deadline_s == 3.0

    def test_it_works_in_the_processes_of_a_pool(self, where: Where) -> None:
        reward = areal.make_reward(**where("needs-json"))
        call = partial(reward, "prompt", completion_ids=[2])
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            good_one = pool.submit(call, JSON_PARIS, answer="Paris")
            bad_one = pool.submit(call, "no json", answer="Paris")
            assert good_one.result() == 1.0
            with pytest.raises(UngradedError, match="invalid_variable"):
                bad_one.result()


class TestSkyRl:
    """``make(env_config=…, extras=…)``, ``init``, ``step``."""

    @pytest.fixture(autouse=True)
    def gym(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand in for the package; `tests/compat/test_skyrl.py` has the real one."""

        class BaseTextEnv:
            def __init__(self) -> None:
                self.turns = 0

        module = types.ModuleType("skyrl_gym.envs.base_text_env")
        module.BaseTextEnv = BaseTextEnv  # type: ignore[attr-defined] # a stand-in
        for name in ("skyrl_gym", "skyrl_gym.envs", module.__name__):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        skyrl._env_class.cache_clear()

    def test_one_step_is_graded(self, where: Where) -> None:
        extras = {"reward_spec": {"method": "rule", "ground_truth": "Paris"}, "answer": "Paris"}
        env = skyrl.graded_env(env_config={}, extras=extras, **where("truth"))
        assert env.get_metrics() == {}
        assert env.step("Paris") == {
            "observations": [],
            "reward": 1.0,
            "done": True,
            "metadata": {"passed": True, "ungraded": False, "sub_rewards": {}},
        }
        assert env.get_metrics() == {"passed": 1.0, "ungraded": 0.0}

    def test_rows_without_a_reward_spec_keep_their_columns(self, where: Where) -> None:
        env = skyrl.graded_env(extras={"answer": "x", "reward_spec": None}, **where("parts"))
        env.step("xy")
        assert env.get_metrics() == {"passed": 0.0, "ungraded": 0.0, "exact": 0.0, "part": 1.0}

    def test_a_failure_raises_out_of_the_step(self, where: Where) -> None:
        with pytest.raises(UngradedError):
            skyrl.graded_env(extras={"answer": ""}, **where("needs-json")).step("x")


class TestTorchtune:
    """``reward(completion_ids, completions, answers)`` → ``RewardOutput``."""

    @pytest.fixture(autouse=True)
    def packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch = types.ModuleType("torch")
        torch.float32 = "float32"  # type: ignore[attr-defined] # a stand-in
        torch.tensor = lambda values, *, dtype, device: (values, dtype, device)  # type: ignore[attr-defined] # a stand-in
        rewards = types.ModuleType("torchtune.dev.rl.rewards")
        rewards.RewardOutput = lambda **fields: fields  # type: ignore[attr-defined] # a stand-in
        for name in ("torchtune", "torchtune.dev", "torchtune.dev.rl"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setitem(sys.modules, rewards.__name__, rewards)

    def test_a_batch_is_graded(self, where: Where) -> None:
        ids = types.SimpleNamespace(device="cuda:0")
        output = torchtune.GraderReward(**where("parts"))(ids, ["Paris", "in Paris"], ["Paris"] * 2)
        kind = ("float32", "cuda:0")
        assert output == {
            "reward_base_name": "parts",
            "total_reward": ([1.0, 0.25], *kind),
            "successes": ([1.0, 0.0], *kind),
            "rewards": {"exact": ([1.0, 0.0], *kind), "part": ([1.0, 1.0], *kind)},
        }

    def test_the_answer_gets_the_name_that_the_grader_reads(self, where: Where) -> None:
        reward = torchtune.GraderReward(answer_field="ground_truth", **where("truth"))
        assert reward(None, ["a"], ["a"])["total_reward"][0] == [1.0]

    def test_a_failure_raises(self, where: Where) -> None:
        with pytest.raises(UngradedError):
            torchtune.GraderReward(**where("needs-json"))(None, ["x"], ["y"])


class TestTinker:
    """What ``Env.step`` and ``compute_group_rewards`` return."""

    async def test_one_answer_is_graded(self, where: Where) -> None:
        reward = pickle.loads(pickle.dumps(tinker.make_reward(**where("parts"))))  # noqa: S301 - our own
        message = {"role": "assistant", "content": [{"type": "text", "text": "Paris"}]}
        graded = await reward.grade(message, {"answer": "Paris"})
        assert graded.reward == 1.0
        assert graded.metrics == {"passed": 1.0, "ungraded": 0.0, "exact": 1.0, "part": 1.0}
        assert graded.logs == {"grader": "parts@1"}

    async def test_a_group_is_graded_in_one_request(self) -> None:
        with flaky(good) as server:
            reward = tinker.make_reward(url=server.url, grader="a@1", item_fields=["answer"])
            given = await reward.grade_group(["x", "xyz"], {"answer": 1, "other": 2})
            assert [number for number, _ in given] == [1.0, 3.0]
            assert len(server.bodies) == 1
            assert server.bodies[0]["rows"][0]["item"] == {"answer": 1}

    async def test_a_failure_raises_or_has_the_wanted_number(self, where: Where) -> None:
        with pytest.raises(UngradedError):
            await tinker.make_reward(**where("needs-json")).grade("x", {"answer": ""})
        reward = tinker.make_reward(on_ungraded=0.0, definition=definition("needs-json"))
        graded = await reward.grade("x", {"answer": ""})
        assert (graded.reward, graded.metrics["ungraded"]) == (0.0, 1.0)
        assert graded.logs == {"grader": "needs-json", "failure": "invalid_variable"}


def test_warnings_carry_no_sample(where: Where, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "service.trainers")
    trl.make_reward(**where("needs-json"))(prompts=["p"], completions=["secret"], answer=["a"])
    assert "needs-json: 1 of 1 rows: invalid_variable" in caplog.text
    assert "secret" not in caplog.text
