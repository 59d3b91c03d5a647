"""Replicated state, split batches, padded maps, and signals."""

import ctypes
import importlib.metadata
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import running

from unetrep_jax import devices
from unetrep_jax.programs import COMPILED
from unetrep_jax.storage import InputError


def in_one_program(share, finish, needs=lambda state: state):
    """As on other platforms than this one, and between processes."""
    step = devices._step_of_one_program(share, finish, needs, True)
    return lambda state, batch: step(state, devices.split(batch))


@pytest.mark.parametrize("make", [devices.parallel_step, in_one_program])
def test_a_step_sums_over_devices_and_keeps_the_state_an_ordinary_array(make):
    """With state, shares and metrics that are trees, of several shapes and types."""

    def share(factor, batch):
        return {"sum": factor * batch.sum(), "rows": [batch.reshape(-1, 3).sum(0)]}

    def finish(state, total):
        return {"sum": state["sum"] + total["sum"], "factor": state["factor"], "steps": state["steps"] + 1}, total

    parallel = make(share, finish, needs=lambda state: state["factor"])
    state = devices.replicate({"sum": np.float32(1), "factor": np.float32(2), "steps": np.int32(0)})
    batch = np.arange(6, dtype=np.float32)
    for step in (1, 2):
        state, total = parallel(state, batch)
        chex.assert_trees_all_equal(devices.to_host(total), {"sum": 30.0, "rows": [np.array([3.0, 5, 7])]})
        assert float(state["sum"]) == 1 + 30 * step and int(state["steps"]) == step and state["sum"].shape == ()


@pytest.mark.parametrize(
    ("company", "words"),
    [
        (("host", 2, 0), "coordinator must be host:port, with a port from 1 to 65535; got 'host'"),
        ((":1234", 2, 0), "coordinator must be"),
        (("host:port", 2, 0), "coordinator must be"),
        (("host:65536", 2, 0), "coordinator must be"),
        (("host:1234", 0, 0), "processes must be 1 to 100,000; got 0"),
        (("host:1234", 10**9, 0), "processes must be"),
        (("host:1234", 2, 2), "process must be 0 to devices.processes - 1 = 1; got 2"),
    ],
)
def test_other_processes_that_cannot_be_are_refused(company, words):
    with pytest.raises(InputError, match=f"^devices.{words}"):
        devices.start(distributed=True, **dict(zip(("coordinator", "processes", "process"), company, strict=True)))


def test_replication_copies_so_that_donation_spares_the_source():
    source = {"a": np.ones(3, np.float32)}
    state = devices.replicate(source)
    step = devices.parallel_step(lambda _, batch: batch.sum(), lambda state, total: (jax.tree.map(lambda x: x + 1, state), total))
    step(state, np.ones(2))
    np.testing.assert_array_equal(source["a"], 1)


def test_batches_split_in_order():
    chex.assert_trees_all_equal(devices.split({"x": np.arange(6)}), {"x": np.array([[0, 1, 2], [3, 4, 5]])})


@pytest.mark.parametrize("rows", [1, 3, 5, 6])
def test_a_map_gives_every_row_its_result_whatever_their_number(rows):
    mapped = devices.parallel_map(lambda c, x: (x * c, x.sum(axis=1)), 5)
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    scaled, sums = mapped(np.float32(3), x)
    np.testing.assert_array_equal(scaled, 3 * x)
    np.testing.assert_array_equal(sums, x.sum(axis=1))


@pytest.mark.parametrize("constants", [(), None, ((), np.float32(2)), {"a": (), "b": np.float32(2)}])
def test_rows_are_split_whatever_the_constants_are(constants):
    mapped = devices.parallel_map(lambda c, rows: rows[0] * sum(jax.tree.leaves(c), 1.0) + rows[1], 4)
    rows = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(12, 24, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(mapped(constants, rows), rows[0] * sum(jax.tree.leaves(constants), 1.0) + rows[1])


def test_a_map_compiles_once_for_full_and_partial_batches():
    mapped = devices.parallel_map(chex.assert_max_traces(n=1)(lambda c, x: x + c), 4)
    for rows in (4, 1, 3):
        assert len(mapped(np.float32(1), np.zeros((rows, 2), np.float32))) == rows


def test_a_map_compiles_again_for_other_shapes():
    mapped = devices.parallel_map(lambda c, x: x + c.sum(), 4)
    for size in (1, 2):
        x, c = np.ones((3, size), np.float32), np.ones(size, np.float32)
        np.testing.assert_array_equal(mapped(c, x), x + size)


def test_maps_that_close_over_arrays_of_one_shape_share_their_program():
    events, programs, compiled = [], [], []
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.monitoring.register_event_listener(listener := lambda event, **_: events.append(event))
    jax.monitoring.register_event_duration_secs_listener(clock := lambda event, _, **__: compiled.append(event))
    try:
        for weight in np.float32([[[1, 2]], [[3, 5]]]):
            weight, key = jnp.array(weight), jax.random.key(int(weight[0, 0]))
            mapped = devices.parallel_map(lambda c, x, w=weight, k=key: x * w + jax.random.bits(k) * c, 2)
            expected = np.float32(jax.random.bits(key)) + weight
            compiled.clear()
            found = mapped(np.float32(1), np.ones((1, 2), np.float32))
            programs.append((events.count("/jax/compilation_cache/cache_misses"), compiled.count(COMPILED)))
            np.testing.assert_allclose(found, expected, rtol=1e-6)
            events.clear()
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
        jax.monitoring.unregister_event_listener(listener)
        jax.monitoring.unregister_event_duration_listener(clock)
    assert min(programs[0]) > 0 and programs[1] == (0, 0)


def test_compiled_programs_are_kept_and_a_folder_that_cannot_be_made_is_named(tmp_path, capsys, monkeypatch):
    names = ("dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")
    names = [f"jax_compilation_cache_{n}" if n == "dir" else f"jax_{n}" for n in names]
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    try:
        (tmp_path / "file").touch()
        devices.start(cpu_devices=2, compilation_cache=str(tmp_path / "file"))
        assert jax.config.jax_compilation_cache_dir == before["jax_compilation_cache_dir"]
        assert f"devices.compilation_cache: {tmp_path}/file" in capsys.readouterr().err
        devices.start(cpu_devices=2, compilation_cache=str(tmp_path / "programs"))
        assert Path(jax.config.jax_compilation_cache_dir).parent == tmp_path / "programs"
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc keeps what is freed, and only it can be told to return it"
)
@pytest.mark.parametrize("how", ["step", "map"])
def test_what_compiling_took_goes_back_to_the_system(how):
    def resident():  # MiB
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 2**20

    def wound(x):  # a long text, so that compiling it takes memory
        for k in range(150):
            x = jnp.sin(x @ jnp.cos(x.T - k) @ x) + jnp.sort(x, axis=0)
        return x

    if how == "step":
        step = devices.parallel_step(lambda _, batch: wound(batch).sum(), lambda state, total: (state + total, state))
        step(devices.replicate(np.float32(0)), np.ones((4, 4), np.float32))
    else:
        devices.parallel_map(lambda _, rows: wound(rows), 4)((), np.ones((4, 4), np.float32))
    after = resident()
    ctypes.CDLL(None).malloc_trim(0)
    assert after - resident() < 10


@pytest.mark.parametrize(("batch", "words"), [(7, "6 or 8"), (1, "such as 2")])
def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(batch, words):
    with pytest.raises(InputError, match=f"{batch} does not divide over 2 devices.*{words}"):
        devices.check_divisible(batch, "train.batch_size")
    devices.check_divisible(6, "train.batch_size")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noticed_and_only_once(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = devices.StopRequest()
        assert stop.at(1) == ""
        os.kill(os.getpid(), number)
        assert stop.at(2) == number.name
        assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def test_to_host_copies_to_numpy():
    tree = devices.to_host({"a": jnp.ones(2), "b": None})
    assert isinstance(tree["a"], np.ndarray) and tree["b"] is None


def test_only_flags_that_this_xla_has_are_set_and_only_without_other_devices_plugins(monkeypatch):
    assert devices._knows("xla_cpu_collective_call_terminate_timeout_seconds")
    assert not devices._knows("xla_a_flag_that_nobody_has_written_yet")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert devices._has_only_cpus()
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [f"{group}.cuda"])
    assert not devices._has_only_cpus()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory", "not enough memory"),
        ("UNAVAILABLE: Connection reset by peer", "was lost"),
        ("INTERNAL: Gloo all-reduce failed: Connection closed by peer", "was lost"),
        ("INTERNAL: cuDNN error", ""),
        ("INVALID_ARGUMENT: shapes differ", ""),
    ],
)
def test_errors_of_the_devices_are_explained_and_others_are_not(monkeypatch, text, said):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    explained = devices.explain(jax.errors.JaxRuntimeError(text))
    assert said in explained and bool(explained) == bool(said)
    assert devices.explain(ValueError(text)) == explained  # as which Gloo's failures at a barrier come
    assert devices.explain(RuntimeError(text)) == ""
    assert devices.explain(ValueError(f"a fault: {text}")) == ""


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_the_others_never_join_ends_with_one_line(process):
    program = (
        "from unetrep_jax import devices; devices.SECONDS_TO_MEET = 1; devices.start(cpu_devices=1, distributed=True, "
        f"coordinator='{running.free_address()}', processes=2, process={process})"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=running.ROOT, timeout=100)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "did not find each other (not all were there after 1 seconds); check devices.coordinator" in ended.stderr
