"""TRL's own `GRPOTrainer` trains a tiny model for two steps on our reward functions."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from service.trainers.trl import make_async_reward, make_reward
from tests.trainers.servers import definition, flaky, status

WORDS = ["<pad>", "<eos>", "<unk>", "capital", "of", "france", "paris", "assistant", "user"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
CONTAINS = {**definition("capital"), "operation": "like"}


@pytest.fixture
def train(tmp_path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        from datasets import Dataset
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
        from trl import GRPOConfig, GRPOTrainer

        words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
        )
        tokenizer.chat_template = TEMPLATE
        config = Qwen2Config(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
        prompt = [{"role": "user", "content": "capital of france"}]
        arguments = GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=6,
            max_steps=2,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        )

        def run(reward_functions: list[Any]) -> list[dict[str, float]]:
            trainer = GRPOTrainer(
                model=Qwen2ForCausalLM(config),
                processing_class=tokenizer,
                reward_funcs=reward_functions,
                train_dataset=Dataset.from_list([{"prompt": prompt, "answer": "paris"}] * 8),
                args=arguments,
            )
            trainer.train()
            return [entry for entry in trainer.state.log_history if "reward" in entry]

        yield run


def test_a_sync_and_an_async_reward_function_give_the_same_rewards(train: Any) -> None:
    steps = train(
        [
            make_async_reward(definition=CONTAINS),
            make_reward(definition={**CONTAINS, "name": "plain"}),
        ]
    )
    assert len(steps) == 2
    for step in steps:
        assert step["rewards/capital/mean"] == step["rewards/plain/mean"]
        assert step["reward"] == pytest.approx(2 * step["rewards/plain/mean"])
        assert step["capital/outage"] == step["plain/ungraded"] == 0.0


def test_what_cannot_be_graded_moves_nothing(train: Any) -> None:
    """TRL takes None as no reward: no mean, no advantage, no gradient."""
    steps = train([make_async_reward(definition=definition("needs-json"))])
    assert [step["needs-json/ungraded"] for step in steps] == [1.0, 1.0]
    assert [step["reward"] for step in steps] == [None, None]
    assert [step["grad_norm"] for step in steps] == [0.0, 0.0]


def test_an_outage_masks_or_stops_the_run_as_wanted(train: Any) -> None:
    from service.trainers.errors import UnavailableError

    with flaky(status(503, Retry_After="999")) as server:
        steps = train([make_async_reward(url=server.url, grader="a@1")])
        assert [step["a/outage"] for step in steps] == [1.0, 1.0]
        assert [step["grad_norm"] for step in steps] == [0.0, 0.0]
        with pytest.raises(UnavailableError):
            train([make_async_reward(url=server.url, grader="a@1", on_outage="raise")])
