"""Remotes and networks that misbehave: a clear error, nothing lost, nothing doubled, and everything well afterwards."""
import contextlib
import sqlite3

import pytest
from content import content, difference, of_file
from peers import Ours, settle
from proxy import cut_answer, deliver_again_later, deliver_twice, lose_answer, once, raw
from sample import sample
from server import Server
from turso_c import TursoError

LOG = "CREATE TABLE log (line TEXT)"  # no primary key: what arrives twice is there twice


def lines(server):
    return sorted(row[0][1].decode() for row in of_file(server.database)["log"])


@pytest.fixture
def replica(clients, proxy):
    return clients(Ours, proxy.url)


def write_lines(replica, first):
    with replica.transaction():
        for i in range(first, first + 3):
            replica.execute("INSERT INTO log VALUES (?)", (f"line {i}",))
    replica.execute("INSERT INTO log VALUES (?)", (f"line {first + 3}",))


@pytest.mark.parametrize("first_push", [True, False])
@pytest.mark.parametrize("behave", [lose_answer, cut_answer, deliver_twice, deliver_again_later])
def test_an_unreliable_network_neither_loses_nor_doubles(server, proxy, replica, official, behave, first_push):
    replica.execute(LOG)
    if not first_push:
        replica.push()
    write_lines(replica, 0)
    proxy.behave = once(behave)
    try:
        replica.push()
    except TursoError as error:
        assert behave in (lose_answer, cut_answer), error
    assert proxy.behave.happened
    assert lines(server) == [f"line {i}" for i in range(4)], "the server did execute it"
    write_lines(replica, 4)
    replica.push()
    replica.push()
    assert lines(server) == [f"line {i}" for i in range(8)]
    settle(server, replica, official)
    assert lines(server) == [f"line {i}" for i in range(8)]


@pytest.mark.parametrize("behave", [lose_answer, cut_answer])
def test_a_lost_answer_is_found_by_a_pull(server, proxy, replica, official, behave):
    replica.execute(LOG)
    write_lines(replica, 0)
    proxy.behave = once(behave)
    with pytest.raises(TursoError):
        replica.push()
    assert replica.pull()
    assert len(replica.query("SELECT * FROM log")) == 4
    official.pull()
    official.execute("DELETE FROM log WHERE line = 'line 1'")
    official.push()
    settle(server, replica, official)
    assert lines(server) == ["line 0", "line 2", "line 3"], "a retry brought back a deleted row"


def wrong_page_size(request, forward):
    """The remote's database says that its pages have 2048 bytes. In the direct dialect they are compressed: it is not spoken."""
    if request.method == "GET":
        return raw(404, b"Not Found")
    return forward().replace(b"SQLite format 3\0\x10\x00", b"SQLite format 3\0\x08\x00")


BAD = {
    "401": lambda *_: raw(401, b"who are you?"),
    "404": lambda *_: raw(404, b"Not Found"),
    "500": lambda *_: raw(500, b"Internal Server Error: disk on fire"),
    "garbage": lambda *_: raw(200, bytes(range(7, 256)) * 20),
    "empty": lambda *_: raw(200),
    "closes early": lambda *_: raw(200, b"\x09", length=5000),
    "truncated": cut_answer,
    "no answer": lambda *_: None,
}
STATUS = ("401", "404", "500")


def fails(action, name):
    with pytest.raises(TursoError) as error:
        action()
    assert len(error.value.message) > 15
    if name in STATUS:
        assert name in error.value.message
    return error.value


@pytest.mark.parametrize("name", [*BAD, "refused", "wrong page size"])
def test_bad_remote_at_the_start(server, proxy, clients, tmp_path, name):
    """Creating a replica fails cleanly; with a good remote it then succeeds."""
    misbehave(proxy, name)
    fails(lambda: Ours(tmp_path / "ours.db", proxy.url), name)
    behave_again(proxy, name)
    settle(server, clients(Ours, proxy.url))


@pytest.mark.parametrize("name", [*BAD, "refused", "wrong page size"])
def test_bad_remote_later(server, proxy, replica, official, name):
    """Pull and push fail, the replica stays as it is and usable; with a good remote both succeed."""
    official.execute("UPDATE Artist SET Name = 'theirs' WHERE ArtistId <= 10")
    official.execute("CREATE TABLE more (a)")
    official.push()
    replica.execute("INSERT INTO Artist VALUES (900000, 'ours')")
    before = content(replica.query)
    misbehave(proxy, name)
    for _ in range(2):
        fails(replica.pull, name)
        if name != "wrong page size":
            fails(replica.push, name)
    assert not difference(before, content(replica.query))
    assert not difference(before, of_file(replica.path))
    replica.execute("INSERT INTO Artist VALUES (900001, 'ours as well')")
    behave_again(proxy, name)
    expected = settle(server, replica, official)
    assert {900000, 900001} <= {row[0][1] for row in expected["Artist"]}
    assert "more" in expected


def misbehave(proxy, name):
    if name == "refused":
        proxy.close()
    else:
        proxy.behave = wrong_page_size if name == "wrong page size" else BAD[name]


def behave_again(proxy, name):
    if name == "refused":
        proxy.listen()
    proxy.behave = None


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("same_tables", [False, True])
def test_another_database_is_not_taken_for_ours(server, ours, tmp_path, pending, same_tables):
    """The server comes back with another database; our replica refuses it, and goes on with the right one."""
    ours.execute("INSERT INTO Artist VALUES (900000, 'pushed')")
    ours.push()
    ours.pull()
    if pending:
        ours.execute("INSERT INTO Artist VALUES (900001, 'pending')")
    before = content(ours.query)
    right, other = server.database, tmp_path / "other.db"
    if same_tables:
        sample(other)
    server.restart(database=other)
    untouched = of_file(other)
    fails(ours.pull, "pull")
    if pending:
        fails(ours.push, "push")
    assert not difference(before, content(ours.query)) and not difference(before, of_file(ours.path))
    assert not difference(untouched, of_file(other)), "our rows went into a strange database"
    server.restart(database=right)
    expected = settle(server, ours)
    assert (900001 in {row[0][1] for row in expected["Artist"]}) == pending


def test_a_backup_of_the_server_is_noticed(server, ours, tmp_path):
    """The server comes back with an old backup of itself: what we pushed since is missing there. No silent mixture."""
    ours.execute("INSERT INTO Artist VALUES (900000, 'in the backup')")
    ours.push()
    ours.pull()
    server.stop()
    backup = tmp_path / "backup.db"
    with contextlib.closing(sqlite3.connect(server.database)) as source, contextlib.closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    server.start()
    ours.execute("INSERT INTO Artist VALUES (900001, 'after the backup')")
    ours.push()
    ours.pull()
    server.restart(database=backup)
    ours.execute("INSERT INTO Artist VALUES (900002, 'pending')")
    try:
        ours.push()
        ours.pull()
    except TursoError as error:
        assert len(error.message) > 15
        assert [900000, 900001, 900002] == [k for (k,) in ours.query("SELECT ArtistId FROM Artist WHERE ArtistId >= 900000")]
    else:
        settle(server, ours)


def test_a_token_is_demanded_and_sent(tmp_path, clients):
    """A server with a token refuses others with 401; with the right one everything works."""
    database = tmp_path / "secret.db"
    sample(database)
    with Server(database, "--auth-token", "s3cret") as server:
        refused = fails(lambda: Ours(tmp_path / "ours.db", server.url), "401")
        assert "s3cret" not in refused.message
        fails(lambda: Ours(tmp_path / "ours.db", server.url, token="wrong"), "401")
        settle(server, clients(Ours, server.url, token="s3cret"))
