"""Files survive kills, changed bytes are noticed, numbers are readable."""

import errno
import io
import json
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from unetrep_jax import storage


def rows(first, count):
    index = np.arange(first, first + count)
    return {"a": index[:, None] * np.ones(3, np.float32), "b": index.astype(np.int32)}


ARRAYS = {"a": ((3,), np.float32), "b": ((), np.int32)}


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "file.txt"
    storage.write_atomically(path, "one")
    storage.write_atomically(path, b"two")
    assert path.read_text() == "two" and os.listdir(path.parent) == ["file.txt"]


def test_a_failing_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    storage.write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        storage.write_atomically(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_json_is_strict_and_turns_arrays_into_lists(tmp_path):
    storage.write_json(
        tmp_path / "x.json", {"a": np.float32(0.5), "b": np.array([1, 2]), "c": float("nan"), 3: (np.inf,)}
    )
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text and json.loads(text) == {"a": 0.5, "b": [1, 2], "c": None, "3": [None]}


def test_equal_values_have_equal_fingerprints_in_any_order():
    assert storage.fingerprint({"a": 1, "b": [2]}) == storage.fingerprint({"b": [2], "a": 1})
    assert storage.fingerprint({"a": 1}) != storage.fingerprint({"a": 2})


@pytest.mark.parametrize("damage", ["change", "remove", "no manifest"])
def test_a_manifest_notices_damage(tmp_path, damage):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data").write_bytes(bytes(1000))
    storage.write_manifest(tmp_path)
    storage.verify_manifest(tmp_path)
    if damage == "change":
        (tmp_path / "sub" / "data").write_bytes(bytes(999) + b"\1")
    elif damage == "remove":
        (tmp_path / "sub" / "data").unlink()
    else:
        (tmp_path / storage.MANIFEST).unlink()
    with pytest.raises(storage.DamagedError):
        storage.verify_manifest(tmp_path)


def test_a_folder_is_replaced_only_when_its_writing_ends_well(tmp_path):
    folder = tmp_path / "stage"
    with storage.replacing(folder, "k1") as partial:
        (partial / "x").write_text("1")
    with pytest.raises(RuntimeError), storage.replacing(folder, "k2") as partial:
        (partial / "x").write_text("2")
        raise RuntimeError
    assert (folder / "x").read_text() == "1"
    assert storage.is_complete(folder, "k1") and not storage.is_complete(folder, "k2")


def test_rows_come_out_as_they_went_in(tmp_path):
    writer = storage.RowWriter(tmp_path / "r", "k", 7, ARRAYS)
    writer.append(**rows(0, 4))
    assert not (tmp_path / "r").exists()
    writer.append(**rows(4, 3))
    writer.finish()
    for name, expected in rows(0, 7).items():
        np.testing.assert_array_equal(np.load(tmp_path / "r" / f"{name}.npy", mmap_mode="r"), expected)
    assert storage.is_complete(tmp_path / "r", "k")


def test_a_disk_that_is_full_when_all_rows_are_there_is_the_only_error_and_the_next_writer_has_them(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS)
    writer.append(**rows(0, 6))
    with monkeypatch.context() as disk:
        disk.setattr("unetrep_jax.storage.rows.mark_complete", full)
        with pytest.raises(OSError, match="No space left"):
            writer.finish()
        writer.close()
    again = storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS)
    assert again.rows_done == 6
    again.finish()
    np.testing.assert_array_equal(np.load(tmp_path / "r" / "b.npy"), np.arange(6))


def test_a_writer_goes_on_where_the_last_record_was_and_forgets_what_came_after(tmp_path):
    writer = storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS, seconds=0.0)
    writer.append(**rows(0, 2))
    writer._seconds = 1e9
    writer.append(**rows(50, 2))  # on disk perhaps, not recorded
    for file in writer._files.values():
        file.close()
    again = storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS)
    assert again.rows_done == 2
    again.append(**rows(2, 4))
    again.finish()
    np.testing.assert_array_equal(np.load(tmp_path / "r" / "b.npy"), np.arange(6))


@pytest.mark.parametrize(
    "change", [{"key": "other"}, {"rows": 8}, {"arrays": {"a": ((3,), np.float32), "b": ((), np.int64)}}]
)
def test_a_writer_with_another_purpose_starts_again(tmp_path, change):
    settings = {"key": "k", "rows": 6, "arrays": ARRAYS}
    writer = storage.RowWriter(tmp_path / "r", **settings, seconds=0.0)
    writer.append(**rows(0, 2))
    writer.close()
    assert storage.RowWriter(tmp_path / "r", **settings | change).rows_done == 0


def test_a_writer_refuses_what_does_not_fit(tmp_path):
    writer = storage.RowWriter(tmp_path / "r", "k", 3, ARRAYS)
    for wrong in (
        {"a": np.ones((2, 3))},
        rows(0, 2) | {"b": np.arange(3)},
        rows(0, 2) | {"a": np.ones((2, 4))},
        rows(0, 4),
    ):
        with pytest.raises(ValueError):
            writer.append(**wrong)
    with pytest.raises(ValueError, match="rows have come"):
        writer.finish()


def test_a_killed_writer_resumes_to_the_same_arrays(tmp_path):
    program = textwrap.dedent("""
        import sys, time
        import numpy as np
        from unetrep_jax import storage
        writer = storage.RowWriter(sys.argv[1], "k", 2000, {"b": ((), np.int64)}, seconds=0.0)
        for i in range(writer.rows_done, 2000):
            writer.append(b=np.array([i]))
            time.sleep(0.0005)
        writer.finish()
    """)
    command = [sys.executable, "-c", program, str(tmp_path / "r")]
    for seconds in (0.5, 0.9):
        process = subprocess.Popen(command)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "r" / "b.npy"), np.arange(2000))


def _hold(path, held, release):
    with storage.lock(path):
        held.set()
        release.wait(10)


def test_a_lock_is_waited_for_and_is_free_when_its_holder_is_killed(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", held, release))
    holder.start()
    assert held.wait(30)
    with (
        pytest.raises(storage.InputError, match="in use by another process"),
        storage.lock(tmp_path / "lock", wait=False),
    ):
        pass
    holder.kill()
    holder.join()
    with storage.lock(tmp_path / "lock"):
        pass


def test_who_waits_long_for_a_lock_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("unetrep_jax.storage.folders.PATIENCE", 0.1)
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", held, release))
    holder.start()
    assert held.wait(30)
    threading.Timer(1.0, release.set).start()
    with storage.lock(tmp_path / "lock"):
        assert capsys.readouterr().err == f"waiting for another process, which holds {tmp_path / 'lock'}\n"
    holder.join()


def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "another's").write_text("content")
    (tmp_path / "lock").symlink_to(tmp_path / "another's")
    with pytest.raises(storage.InputError, match="lock is a symbolic link"), storage.lock(tmp_path / "lock"):
        pass
    assert (tmp_path / "another's").read_text() == "content"


@pytest.fixture
def done(monkeypatch):
    """What is put on the disk, and renamed, in order."""
    events, fsync, rename = [], os.fsync, os.rename

    def note_fsync(descriptor):
        events.append(f"sync {os.readlink(f'/proc/self/fd/{descriptor}')}")
        fsync(descriptor)

    def note_rename(source, target):
        events.append(f"rename {source}")
        rename(source, target)

    monkeypatch.setattr("os.fsync", note_fsync)
    monkeypatch.setattr("os.rename", note_rename)
    return events


def test_all_of_a_folder_is_on_the_disk_before_it_gets_its_name_and_the_name_before_the_old_folder_goes(tmp_path, done):
    complete_folder(tmp_path)
    complete_folder(tmp_path)
    renamed = done.index(f"rename {tmp_path / '.f.partial'}", done.index(f"rename {tmp_path / 'f'}"))
    for name in ("", "/a.bin", "/deep", "/deep/b.json", f"/{storage.COMPLETE}"):
        assert f"sync {tmp_path}/.f.partial{name}" in done[:renamed] or name.endswith(storage.COMPLETE)
    assert done[renamed + 1] == f"sync {tmp_path}"


def test_a_file_system_that_cannot_put_names_on_the_disk_is_no_error_and_one_that_cannot_put_files_is(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "file").write_text("")
    monkeypatch.setattr("os.fsync", refuse)
    storage.sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        storage.sync(tmp_path / "file")


def flip(path, position=-1):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def complete_folder(tmp_path):
    with storage.replacing(tmp_path / "f", "k") as partial:
        for name in ("a.bin", "deep/b.json"):
            storage.write_atomically(partial / name, f"content of {name}")
    return tmp_path / "f"


@pytest.mark.parametrize("name", ["a.bin", "deep/b.json"])
@pytest.mark.parametrize("harm", [flip, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_a_complete_folder_with_a_damaged_file_counts_as_not_written_and_the_file_is_named(tmp_path, capsys, name, harm):
    folder = complete_folder(tmp_path)
    harm(folder / name)
    assert not storage.is_complete(folder, "k")
    assert not storage.is_complete(folder, "k")
    [line] = capsys.readouterr().err.splitlines()  # said once
    assert str(folder) in line and name in line and "damaged" in line


def test_a_folder_that_is_made_again_is_complete_again(tmp_path):
    folder = complete_folder(tmp_path)
    assert storage.is_complete(folder, "k")
    flip(complete_folder(tmp_path) / "a.bin")
    assert not storage.is_complete(folder, "k")
    assert storage.is_complete(complete_folder(tmp_path), "k")


def test_checksums_of_rows_are_those_of_their_files(tmp_path):
    writer = storage.RowWriter(tmp_path / "r", "k", 4, ARRAYS)
    writer.append(**rows(0, 2))
    writer.close()
    writer = storage.RowWriter(tmp_path / "r", "k", 4, ARRAYS)
    writer.append(**rows(2, 2))
    writer.finish()
    record = storage.read_json(tmp_path / "r" / storage.COMPLETE)
    assert record["sha256"] == {f"{name}.npy": storage.sha256(tmp_path / "r" / f"{name}.npy") for name in ARRAYS}


def test_large_folders_are_compared_only_where_size_or_time_differ(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("unetrep_jax.storage.folders.LARGE", 10)
    folder = complete_folder(tmp_path)
    monkeypatch.setattr("unetrep_jax.storage.folders.sha256", None)
    assert storage.is_complete(folder, "k")
    monkeypatch.undo()
    monkeypatch.setattr("unetrep_jax.storage.folders.LARGE", 10)
    flip(folder / "a.bin")
    assert not storage.is_complete(folder, "k")
    assert "a.bin changed" in capsys.readouterr().err


def test_a_file_that_the_system_does_not_give_is_no_damage(tmp_path, monkeypatch):
    storage.write_arrays(tmp_path / "a.npz", {"x": np.arange(3)})
    folder = complete_folder(tmp_path)

    def fails(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
        patch.setattr("pathlib.Path.read_bytes", fails)
        storage.read_arrays(tmp_path / "a.npz")
    monkeypatch.setattr("unetrep_jax.storage.folders.sha256", fails)
    with pytest.raises(OSError, match="Input/output error"):
        storage.is_complete(folder, "k")


@pytest.mark.parametrize("dtype", ["float32", "U3", "bool", "V2", [("a", "i4"), ("b", "f8", (3,))]], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (4, 3)])
def test_arrays_of_any_plain_type_and_shape_are_no_objects(tmp_path, dtype, shape):
    array = np.zeros(shape, dtype)
    with storage.replacing(tmp_path / "f", "k") as partial:
        np.save(partial / "a.npy", array)
        np.savez(partial / "b.npz", a=array, b=array)
    assert storage.is_complete(tmp_path / "f", "k")


@pytest.mark.parametrize("content", ["", "[]", "3", '{"key": ["k"]}'])
def test_a_damaged_record_of_completeness_means_not_written(tmp_path, content):
    folder = complete_folder(tmp_path)
    (folder / storage.COMPLETE).write_text(content)
    assert not storage.is_complete(folder, "k")


def test_rows_that_changed_while_a_writer_was_away_are_made_again(tmp_path, capsys):
    for harm in (lambda partial: flip(partial / "b.npy"), lambda partial: flip(partial / "a.npy", -20)):
        writer = storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS)
        writer.append(**rows(0, 4))
        writer.close()
        assert storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS).rows_done == 4
        harm(tmp_path / ".r.partial")
        assert storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS).rows_done == 0
        assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("done", [-1, 3, 5, 6, 7])
def test_a_record_of_more_or_fewer_rows_than_there_are_is_not_believed(tmp_path, done):
    writer = storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS)
    writer.append(**rows(0, 4))
    writer.close()
    record = tmp_path / ".r.partial" / storage.PROGRESS
    storage.write_json(record, storage.read_json(record) | {"done": done})
    assert storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS).rows_done == 0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"identity": {}, "done": 3}'])
def test_a_damaged_record_of_rows_means_that_there_are_none(tmp_path, content):
    storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS).close()
    (tmp_path / ".r.partial" / storage.PROGRESS).write_text(content)
    assert storage.RowWriter(tmp_path / "r", "k", 6, ARRAYS).rows_done == 0


@pytest.mark.parametrize("moment", ["complete", "named"])
def test_a_writer_killed_at_the_very_end_leaves_nothing_behind(tmp_path, monkeypatch, moment):
    writer = storage.RowWriter(tmp_path / "r", "k", 3, ARRAYS)
    writer.append(**rows(0, 3))
    with monkeypatch.context() as patch:
        after = {"complete": "rows.put_in_place", "named": "folders.shutil"}[moment]
        patch.setattr(f"unetrep_jax.storage.{after}", None)  # the process ends here
        with pytest.raises((TypeError, AttributeError)):
            writer.finish()
    again = storage.RowWriter(tmp_path / "r", "k", 3, ARRAYS)
    assert again.rows_done == 3
    again.close()
    again.finish()
    assert storage.is_complete(tmp_path / "r", "k")
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["a.npy", "b.npy", storage.COMPLETE]
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_what_a_killed_writer_left_of_a_file_goes_when_the_file_is_written(tmp_path):
    program = """
import os, sys
from unetrep_jax import storage
os.fsync = lambda file: os.kill(os.getpid(), 9)
storage.write_atomically(sys.argv[1], "new")
"""
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "x")]).returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists() and len(list(tmp_path.iterdir())) == 1
    storage.write_atomically(tmp_path / "x", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("left", [".complete.json.partial", ".progress.json.partial"])
def test_what_a_killed_writer_left_of_its_records_is_no_part_of_the_rows(tmp_path, left):
    writer = storage.RowWriter(tmp_path / "r", "k", 7, ARRAYS)
    writer.append(**rows(0, 7))
    writer.close()
    (tmp_path / ".r.partial" / left).write_text("{")
    storage.RowWriter(tmp_path / "r", "k", 7, ARRAYS).finish()
    assert storage.is_complete(tmp_path / "r", "k")
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["a.npy", "b.npy", "complete.json"]


def test_a_link_in_the_place_of_a_file_under_way_is_not_written_through(tmp_path):
    (tmp_path / "another's").write_text("content")
    (tmp_path / ".x.partial").symlink_to(tmp_path / "another's")
    storage.write_atomically(tmp_path / "x", "new")
    assert (tmp_path / "another's").read_text() == "content" and (tmp_path / "x").read_text() == "new"
    assert not (tmp_path / "x").is_symlink()


def test_tidying_removes_what_nobody_goes_on_from_and_nothing_of_others(tmp_path):
    (tmp_path / "f" / "deep").mkdir(parents=True)
    for name in (".f.old", ".g.old", ".h.partial", ".mine.old", "mine"):
        (tmp_path / name).mkdir()
    ours = (".f.json.partial", "f/.x.partial", "f/deep/.y.partial", "..f.state.npz.partial")
    for name in (*ours, ".other.partial", "mine/.z.partial"):
        (tmp_path / name).write_text("")
    storage.tidy(tmp_path, ["f", "f.json", "g", "h"])
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"f", "f/deep", ".g.old", ".h.partial", ".mine.old", ".other.partial", "mine", "mine/.z.partial"}


def test_arrays_of_which_any_byte_changed_are_not_there(tmp_path):
    path, arrays = tmp_path / "x.npz", {"key": np.array("k"), "a": np.arange(6.0).reshape(2, 3)}
    storage.write_arrays(path, arrays)
    content, harmless = path.read_bytes(), 0
    for position in range(0, len(content)):
        path.write_bytes(content)
        flip(path, position)
        found = storage.read_arrays(path)
        if found is not None:  # dates and the like, which say nothing about the arrays
            harmless += 1
            assert set(found) == set(arrays) and all(np.array_equal(found[name], arrays[name]) for name in arrays), position
    assert harmless < len(content) / 2
    for end in (0, 1, 100, len(content) - 1):
        path.write_bytes(content[:end])
        assert storage.read_arrays(path) is None
    assert storage.read_arrays(tmp_path / "none.npz") is None
    path.write_bytes(content)
    assert storage.read_arrays(path.rename(tmp_path / "another.npz")) is None


class Planted:
    """Would make a file, were it ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_an_object_in_an_array_file_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", key=np.array([Planted(tmp_path / "executed")], object), sha256="0")
    assert storage.read_arrays(tmp_path / "x.npz") is None
    assert not (tmp_path / "executed").exists()


# What holds the object -> the file, and how it gets there.
PLANTS = {
    "an array": ("deep/a.npy", lambda path, planted: np.save(path, np.array([planted], object))),
    "a field": ("a.npy", lambda path, planted: np.save(path, np.array([(1, planted)], [("a", int), ("b", object)]))),
    "one of several arrays": ("a.npz", lambda path, planted: np.savez(path, a=np.arange(3), b=np.array([planted], object))),
    "a pickle called an array": ("a.npy", lambda path, planted: path.write_bytes(pickle.dumps(planted))),
    "a pickle called arrays": ("a.npz", lambda path, planted: path.write_bytes(pickle.dumps(planted))),
}


@pytest.mark.parametrize("what", PLANTS)
def test_a_folder_with_an_object_in_an_array_counts_as_not_written_though_its_checksums_fit(tmp_path, capsys, what):
    name, plant = PLANTS[what]
    with storage.replacing(tmp_path / "f", "k") as partial:
        (partial / name).parent.mkdir(exist_ok=True)
        plant(partial / name, Planted(tmp_path / "executed"))
    assert not storage.is_complete(tmp_path / "f", "k")
    assert capsys.readouterr().err == f"{tmp_path / 'f'} is damaged: {name} holds something else than plain arrays\n"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("limit", "enough"), [(10**9, False), (10**12, True), (resource.RLIM_INFINITY, True)])
def test_a_limit_on_memory_in_which_nothing_starts_is_refused(monkeypatch, limit, enough):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    if enough:
        storage.require_memory()
    else:
        with pytest.raises(storage.InputError, match=r"ulimit -v.*1.0 GB, and at least"):
            storage.require_memory()


def test_progress_tells_speed_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with storage.Progress("sweep", 1000, done=100) as progress:
        now[0] += 20
        progress.advance(300)
    assert sys.stderr.getvalue().splitlines()[0] == "sweep: 400 of 1,000 images, 15 images/s, 0:40 left"


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "0:07"), (750, "12:30"), (11045, "3:04:05")])
def test_durations_read_as_a_clock(seconds, text):
    assert storage.duration(seconds) == text
