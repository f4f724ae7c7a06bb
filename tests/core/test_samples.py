"""Samples that a run generates at each evaluation."""

from pathlib import Path

from gpt_core.generation.generator import Generator, prompt_bytes, readable
from gpt_core.generation.sampler import Sampling
from gpt_core.training import events as ev
from tests.core.training_samples import losses, of_kind, open_run, tiny_settings, train, whole_state


def test_a_sample_is_written_at_the_start_and_end_and_after_each_evaluation(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_steps=12, sample_tokens=8))
    assert [event.step for event in of_kind(events, ev.SampleWritten)] == [0, 5, 10, 12]
    for index, event in enumerate(events):
        if isinstance(event, ev.SampleWritten) and event.step in (5, 10):
            assert isinstance(events[index - 1], ev.EvalCompleted)


def test_a_sample_is_the_reply_of_the_weights_of_that_step_with_the_same_random_seed(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=10, sample_tokens=8, sample_prompt="She", seed=3)
    trainer = open_run(settings)
    last = of_kind(list(trainer.events()), ev.SampleWritten)[-1]
    sampling = Sampling.from_settings(settings)
    reply = Generator(trainer.parameters, trainer.tokenizer, seed=3).generate(
        "She", Sampling(**{name: getattr(sampling, name) for name in sampling.__struct_fields__} | {"max_tokens": 8})
    )
    assert (last.step, last.prompt, last.text) == (10, "She", "".join(reply))


def test_evaluations_on_request_write_one_sample_per_step(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=2, sample_tokens=8, eval_every_steps=0))
    requested, events = {0: 1, 1: 2}, []  # evaluations to request at each step
    trainer.requests.pause()
    for event in trainer.events():
        events.append(event)
        if isinstance(event, ev.RunPaused):
            if requested.get(event.step, 0):
                requested[event.step] -= 1
                trainer.requests.evaluate()
            else:
                trainer.requests.single_step()
    assert [event.step for event in of_kind(events, ev.EvalCompleted)] == [0, 1, 1, 2]
    assert [event.step for event in of_kind(events, ev.SampleWritten)] == [0, 1, 2]


def test_samples_change_nothing_in_the_training(tmp_path: Path) -> None:
    runs = []
    for tokens in (0, 20):
        folder = tmp_path / str(tokens)
        folder.mkdir()
        trainer = open_run(tiny_settings(folder, max_steps=12, sample_tokens=tokens))
        events = list(trainer.events())
        runs.append((losses(events), whole_state(trainer), len(of_kind(events, ev.SampleWritten))))
    assert runs[0][:2] == runs[1][:2]
    assert (runs[0][2], runs[1][2]) == (0, 4)


def test_a_stop_does_not_wait_for_a_sample(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, sample_tokens=1_000_000))
    events = trainer.events()
    next(events)
    trainer.requests.stop()
    assert not of_kind(list(events), ev.SampleWritten)


def test_a_sample_keeps_bytes_that_are_not_valid_utf8(tmp_path: Path) -> None:
    first = of_kind(train(tiny_settings(tmp_path, max_steps=1, sample_tokens=40)), ev.SampleWritten)[0]
    assert first.data, "untrained, most tokens are single bytes"
    assert "\N{REPLACEMENT CHARACTER}" in first.text
    assert prompt_bytes(first.exact_text) == first.data
    assert first.text == readable(first.exact_text)
    assert ev.from_json(ev.to_json(first)) == first
    assert ev.SampleWritten(5, "It was", " né").exact_text == " né"


def test_a_log_returns_the_samples(tmp_path: Path) -> None:
    event = ev.SampleWritten(5, "It was", ' a "dark" \x1b[31m night\n')
    assert ev.from_json(ev.to_json(event)) == event
