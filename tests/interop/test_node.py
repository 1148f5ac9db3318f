"""Turso's client for JavaScript on our server: bootstrap, push, pull, several writers, restarts, a folder with tokens."""
import shutil
import sqlite3

import pytest
from node_peer import Node
from peers import Official, Ours, reopen
from server import Server

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")

NOTES = "SELECT id, text FROM note ORDER BY id"
INSERT = "INSERT INTO note VALUES (?, ?)"


@pytest.fixture
def notes(tmp_path):
    database = tmp_path / "notes.db"
    with sqlite3.connect(database) as con:
        con.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
        con.execute("INSERT INTO note VALUES (1, 'there from the beginning')")
    con.close()
    with Server(database) as server:
        yield server


def of_server(server):
    con = sqlite3.connect(server.database)
    rows = con.execute(NOTES).fetchall()
    con.close()
    return rows


def settle(server, *peers):
    for peer in peers:
        peer.push()
    for _ in range(10):
        if not any([peer.pull() for peer in peers]):
            break
    for peer in peers:
        assert peer.query(NOTES) == of_server(server), peer.name


def test_bootstrap_push_pull_and_restart(notes, clients):
    node, ours = clients(Node, notes.url), clients(Ours, notes.url)
    assert node.query(NOTES) == [(1, "there from the beginning")]
    node.execute(INSERT, (2, "from Node"))
    node.transaction((INSERT, (3, "one")), ("UPDATE note SET text = 'changed' WHERE id = ?", (1,)))
    node.push()
    ours.pull()
    ours.execute(INSERT, (4, "from us, ä♫"))
    ours.push()
    assert node.pull() and not node.pull()
    settle(notes, node, ours)
    notes.restart("kill")
    node.execute(INSERT, (5, "after the server's restart"))
    settle(notes, node, ours)
    node.checkpoint()
    reopen(node)
    node.execute("DELETE FROM note WHERE id = ?", (2,))
    settle(notes, node, ours)
    assert [row[0] for row in node.query(NOTES)] == [1, 3, 4, 5]


def test_pending_changes_survive_the_death_of_the_process(notes, clients):
    node, ours = clients(Node, notes.url), clients(Ours, notes.url)
    node.execute(INSERT, (2, "pending"))
    ours.execute(INSERT, (3, "ours"))
    ours.push()
    node.kill()
    node.open()
    settle(notes, node, ours)
    assert len(node.query(NOTES)) == 3


def test_many_writers_of_three_kinds(notes, clients, rng):
    kinds = [Node, Node, Official, Ours, Ours]
    peers = [clients(kind, notes.url, f"{i}-{kind.name}") for i, kind in enumerate(kinds)]
    expected = {1}
    for step in range(100):
        number = rng.randrange(len(peers))
        peer = peers[number]
        key = 1000 * (number + 1) + step
        peer.execute(INSERT, (key, f"{number} {step}"))
        expected.add(key)
        if rng.random() < 0.4:
            peer.push()
        if rng.random() < 0.4:
            peer.pull()
    settle(notes, *peers)
    assert {row[0] for row in of_server(notes)} == expected


def test_a_folder_and_tokens(tmp_path, clients):
    """The official clients keep the path of a URL, with or without a slash at its end."""
    folder, tokens = tmp_path / "folder", tmp_path / "tokens"
    folder.mkdir()
    write, read = "w" * 24, "r" * 24
    tokens.write_text(f"read-write {write} notes\nread-only {read}\n")
    with Server(folder, "--create", "--token-file", str(tokens), folder=True) as server:
        url = f"{server.url}/notes"
        node = clients(Node, url, token=write)
        node.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
        node.execute(INSERT, (1, "by path"))
        node.push()
        reader = clients(Node, url + "/", "reader", token=read)
        assert reader.query(NOTES) == [(1, "by path")]
        official = clients(Official, url, "official", token=read)
        assert official.query(NOTES) == [(1, "by path")]
        reader.execute(INSERT, (2, "not allowed"))
        with pytest.raises(RuntimeError, match="403"):
            reader.push()
        with pytest.raises(RuntimeError, match="403|401"):
            clients(Node, f"{server.url}/other", "other", token=write)
        node.execute(INSERT, (3, "later"))
        node.push()
        assert official.pull()
        assert official.query(NOTES) == [(1, "by path"), (3, "later")]
