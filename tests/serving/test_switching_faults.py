"""A switch of a server that is kept up: its Triton killed meanwhile, new tiers, and other servers of the repository."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from known_tiers import write_known_model
from test_switching import FAR, command, publish_other, until

from heatserve import FREE_PORTS, Client, HeatserveError
from heatserve.export.card import read_card
from heatserve.export.repository.pins import Pin, read_pin
from heatserve.export.repository.tiers import write_tier_configs
from heatserve.export.tiers import TierModel
from heatserve.serving.observed.families import SWITCHES
from heatserve.serving.observed.page import value_of
from heatserve.serving.supervised.server import Server
from heatserve.serving.switching.switcher import SwitchOutcome
from heatserve.serving.switching.switching import Switching

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only"),
]


def test_the_front_answers_the_tiers_of_a_new_version_and_a_killed_triton_condemns_none(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    version_dir = write_known_model(repository, tiers=[])
    with Server(repository, endpoints=FREE_PORTS) as server:
        said = list[str]()

        def say(text: str) -> None:
            said.append(text)
            if text.endswith("the card of version 3 matches its graphs"):  # its trial is next
                os.kill(server.triton._process.pid, signal.SIGKILL)

        switching = Switching(repository, lambda: server.triton.versions, say=say, on_switch=server.note_switch)
        switcher = switching.switcher
        write_tier_configs(repository, read_card(version_dir), [TierModel.CONFIRM])
        publish_other(repository)
        assert switcher.switch("known", 2).outcome is SwitchOutcome.SWITCHED
        with Client(server.endpoints.http_url, model="known", timeout=60) as client:
            assert client.confirm(FAR, radius=0.2)[0].label == 1
        publish_other(repository)
        former = server.triton
        folder = former._folder
        with pytest.raises(HeatserveError, match="known: expected a server that runs on, found that it was ended"):
            switcher.switch("known", 3, say=say)
        until(lambda: server.triton is not former and server.state.ready)
        assert not folder.exists()
        assert switcher.served == {"known": 2}
        assert value_of(server.metrics, SWITCHES) == 1
        assert switcher.switch("known", 3).outcome is SwitchOutcome.SWITCHED
        former.log.unlink(missing_ok=True)


def test_two_servers_of_one_repository_go_back_together(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    write_known_model(repository, tiers=[])
    publish_other(repository)
    with Server(repository, endpoints=FREE_PORTS) as first, Server(repository, endpoints=FREE_PORTS) as second:
        servers = first, second
        with (
            Switching(repository, lambda: first.triton.versions),
            Switching(repository, lambda: second.triton.versions),
        ):
            assert command("switch", "known", "1", repository=repository).returncode == 0
            assert [server.models[0].version for server in servers] == [1, 1]
            done = command("rollback", "known", repository=repository)
            assert done.returncode == 0, done.stderr
            assert [server.models[0].version for server in servers] == [2, 2]
            assert read_pin(repository, "known") == Pin(2)
