import os
import signal

import pytest

from pref_dist.runtime.preempt import StopRequest, stop_files, tell_launcher


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_only_sets_a_flag_and_the_old_handler_comes_back(number):
    former = signal.getsignal(number)
    with StopRequest(()) as stop:
        assert stop.reason() == ""
        os.kill(os.getpid(), number)
        assert stop.reason() == ("Ctrl-C" if number == signal.SIGINT else f"signal {number.name}")
    assert signal.getsignal(number) == former


def test_ctrl_c_twice_leaves_at_once():
    with StopRequest(()) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stop_file_asks_to_stop(tmp_path):
    with StopRequest((tmp_path / "stop",)) as stop:
        assert stop.reason() == ""
        (tmp_path / "stop").touch()
        assert stop.reason() == f"stop file {tmp_path / 'stop'}"
    (tmp_path / "stop").write_text("Ctrl-C\nof a launcher", encoding="utf-8")
    with StopRequest((tmp_path / "stop",)) as stop:
        assert stop.reason() == "Ctrl-C"


def test_the_launchers_folder_gives_a_stop_file_and_takes_exit_codes(tmp_path, monkeypatch):
    monkeypatch.setenv("PREF_DIST_LAUNCH_DIR", str(tmp_path))
    assert stop_files(tmp_path / "run" / "stop") == (tmp_path / "run" / "stop", tmp_path / "stop")
    tell_launcher(3, 75)
    assert (tmp_path / "exit_codes" / "rank_3").read_text() == "75\n"
    monkeypatch.delenv("PREF_DIST_LAUNCH_DIR")
    assert stop_files(tmp_path / "stop") == (tmp_path / "stop",)


def test_a_request_within_another_ends_with_it_and_leaves_the_signals_to_it(tmp_path):
    with StopRequest((tmp_path / "all",)) as outer:
        with StopRequest((tmp_path / "one",), outer) as first:
            (tmp_path / "one").touch()
            assert "one" in first.reason()
        assert outer.reason() == ""
        with StopRequest((), outer) as second:
            assert second.reason() == ""
            os.kill(os.getpid(), signal.SIGUSR1)
            assert second.reason() == outer.reason() == "signal SIGUSR1"
        with StopRequest((), outer) as third:
            assert third.reason() == "signal SIGUSR1", "it counts for what comes after, too"
