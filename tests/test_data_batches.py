import json
import threading

import numpy as np
import pytest

from unetrep_jax import data
from unetrep_jax.storage import InputError

COUNT = 23


@pytest.fixture(scope="module")
def numbered():
    """Image i is i everywhere, so that a batch tells its order."""
    images = np.broadcast_to(np.arange(COUNT, dtype=np.uint8)[:, None, None, None], (COUNT, 4, 4, 1))
    return data.ImageSet(images, None, (), {}, "numbered")


def draw(images, steps, **settings):
    with data.batches(images, **{"batch_size": 4, "seed": 1, **settings}) as batches:
        return [next(batches) for _ in range(steps)]


def order(batches):
    return np.concatenate([batch.images[:, 0, 0, 0] for batch in batches]).tolist()


def test_every_epoch_holds_each_image_once_in_another_order(numbered):
    drawn = order(draw(numbered, 3 * COUNT, batch_size=1))
    epochs = [drawn[i : i + COUNT] for i in range(0, 3 * COUNT, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and epochs[0] != list(range(COUNT))


def test_batches_run_on_across_the_end_of_an_epoch(numbered):
    assert order(draw(numbered, 23, batch_size=4)) == order(draw(numbered, 92, batch_size=1))


def test_seeds_give_different_orders_and_the_same_seed_the_same(numbered):
    first, again, other = (order(draw(numbered, 8, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_batch_is_a_whole_picture_of_bytes_and_places(numbered):
    batch = draw(numbered, 1)[0]
    assert batch.images.dtype == np.uint8 and batch.images.shape == (4, 4, 4, 1)
    assert batch.index.dtype == np.int32 and batch.index.tolist() == [0, 1, 2, 3]
    assert (batch.images == batch.images[:, :1, :1]).all()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_see_the_batches_that_one_would_see(numbered, processes):
    alone = draw(numbered, 12)
    parts = [draw(numbered, 12, process_index=i, process_count=processes) for i in range(processes)]
    for step, whole in enumerate(alone):
        assert np.array_equal(np.concatenate([part[step].images for part in parts]), whole.images)
        assert np.array_equal(np.concatenate([part[step].index for part in parts]), whole.index)


def test_the_state_resumes_exactly_on_another_number_of_processes(numbered):
    whole = draw(numbered, 20)
    with data.batches(numbered, batch_size=4, seed=1) as batches:
        for _ in range(7):
            next(batches)
        state = json.loads(json.dumps(batches.state()))
    assert state["step"] == 7
    with data.batches(numbered, batch_size=4, seed=1, process_index=1, process_count=2) as batches:
        batches.restore(state)
        for step in range(7, 20):
            assert np.array_equal(next(batches).images, whole[step].images[2:])
        assert batches.state()["step"] == 20


def test_starting_at_a_step_equals_going_there(numbered):
    assert order(draw(numbered, 5, start_step=9)) == order(draw(numbered, 14)[9:])


def test_a_far_step_is_reached_without_drawing_those_before(numbered):
    assert len(draw(numbered, 1, start_step=10**9)[0].images) == 4


def test_batches_that_were_gathered_ahead_do_not_count_as_given(numbered):
    with data.batches(numbered, batch_size=4, seed=1) as batches:
        assert batches.state()["step"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "the seed was 1, is 2"),
        ({"batch_size": 6}, "the batch size was 4, is 6"),
        ({"images": 22}, "the number of images was 23, is 22"),
        ({"fingerprint": "x"}, "the images' fingerprint was numbered, is x"),
    ],
)
def test_a_state_does_not_resume_when_what_it_depends_on_has_changed(numbered, change, message):
    with data.batches(numbered, batch_size=4, seed=1) as batches:
        state = batches.state()
    images = numbered._replace(
        images=numbered.images[: change.get("images", COUNT)], fingerprint=change.get("fingerprint", "numbered")
    )
    settings = {"batch_size": change.get("batch_size", 4), "seed": change.get("seed", 1)}
    with data.batches(images, **settings) as batches, pytest.raises(InputError, match=message) as error:
        batches.restore(state)
    assert "Grain" not in str(error.value) and "--fresh" in str(error.value)


def test_a_state_does_not_resume_when_the_shuffle_itself_has_changed(numbered):
    with data.batches(numbered, batch_size=4, seed=1) as batches:
        with pytest.raises(InputError, match="Grain's shuffled order"):
            batches.restore({**batches.state(), "order": "0123456789abcdef"})
        with pytest.raises(InputError, match="incomplete"):
            batches.restore({"step": 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 24}, "batch_size must .* 23; got 24"),
        ({"batch_size": 0}, "batch_size must .*; got 0"),
        ({"batch_size": 9, "process_count": 2}, "batch_size=9 is not divisible by 2 processes"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
    ],
)
def test_batches_that_cannot_be_drawn_are_refused(numbered, settings, message):
    with pytest.raises(InputError, match=message):
        draw(numbered, 1, **settings)


def test_closing_ends_the_thread_and_may_be_repeated(numbered):
    batches = data.batches(numbered, batch_size=4, seed=1)
    next(batches)
    batches.close()
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    with pytest.raises(ValueError, match="closed"):
        next(batches)
