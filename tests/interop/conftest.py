import os
import random

import pytest
from peers import Official, Ours
from proxy import Proxy
from sample import sample
from server import Server


@pytest.fixture
def rng():
    """Randomness whose seed is printed when the test fails; SEED=n repeats it."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
    print(f"SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def server(tmp_path):
    """A server on the sample database."""
    database = tmp_path / "server.db"
    sample(database)
    with Server(database) as server:
        yield server


@pytest.fixture
def proxy(server):
    with Proxy(server) as proxy:
        yield proxy


@pytest.fixture
def clients(tmp_path):
    """Makes peers that are closed at the end of the test."""
    made = []

    def make(kind, url, name=None, **options):
        peer = kind(tmp_path / f"{name or kind.name}.db", url, **options)
        made.append(peer)
        return peer

    yield make
    for peer in made:
        peer.close()


@pytest.fixture
def ours(clients, server):
    return clients(Ours, server.url)


@pytest.fixture
def official(clients, server):
    return clients(Official, server.url)
