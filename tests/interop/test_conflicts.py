"""Constraint conflicts: whole transactions or nothing, and a way out."""
import pytest
import turso.sync
from content import of_file
from peers import Ours, reopen, settle
from turso_c import TursoError

ACCOUNT = "CREATE TABLE account (id INTEGER PRIMARY KEY, email TEXT UNIQUE, note TEXT)"


def accounts(server):
    return {row[0][1]: row[1][1].decode() for row in of_file(server.database)["account"]}


@pytest.fixture
def rivals(server, clients, ours, official):
    """Ours and the official client; a third has taken `taken@x` on the remote, and neither knows."""
    third = clients(Ours, server.url, "third")
    third.execute(ACCOUNT)
    settle(server, third, ours, official)
    third.execute("INSERT INTO account VALUES (1, 'taken@x', 'first')")
    third.push()
    return ours, official


def write_a_conflict(peer, key):
    """A transaction of three rows, of which the middle one will be refused, and a harmless one after it."""
    with peer.transaction():
        peer.execute("INSERT INTO account VALUES (?, ?, 'a')", (key, f"{key}@x"))
        peer.execute("INSERT INTO account VALUES (?, 'taken@x', 'b')", (key + 1,))
        peer.execute("INSERT INTO account VALUES (?, ?, 'c')", (key + 2, f"{key + 2}@x"))
    peer.execute("INSERT INTO account VALUES (?, ?, 'd')", (key + 3, f"{key + 3}@x"))


def assert_refused(peer, key):
    """Push says CONSTRAINT, and what it has to say helps."""
    with pytest.raises(TursoError) as refused:
        peer.push()
    assert refused.value.name == "CONSTRAINT"
    assert "account" in refused.value.message and "email" in refused.value.message
    assert len(peer.query("SELECT * FROM account WHERE id >= ?", (key,))) == 4, "the local rows are gone"
    assert peer.replica.stats()["cdc_operations"] > 0


def free_the_value(official):
    """On the remote, the one who has the value gives it away."""
    official.pull()
    official.execute("UPDATE account SET email = 'free@x' WHERE email = 'taken@x'")
    official.push()


EVERYTHING = {1: "free@x", 10: "10@x", 11: "taken@x", 12: "12@x", 13: "13@x"}


def test_ours_keeps_the_change_until_the_remote_can_take_it(server, rivals):
    ours, official = rivals
    write_a_conflict(ours, 10)
    for _ in range(3):
        assert_refused(ours, 10)
        assert accounts(server) == {1: "taken@x"}, "half a transaction arrived"
    free_the_value(official)
    ours.push()
    assert accounts(server) == EVERYTHING
    settle(server, ours, official)
    assert accounts(server) == EVERYTHING


def test_a_pull_into_a_conflict_changes_nothing(server, rivals):
    ours, official = rivals
    write_a_conflict(ours, 10)
    for _ in range(2):
        with pytest.raises(TursoError) as refused:
            ours.pull()
        assert refused.value.name == "CONSTRAINT"
        assert len(ours.query("SELECT * FROM account")) == 4
    free_the_value(official)
    assert ours.pull()
    assert len(ours.query("SELECT * FROM account")) == 5
    settle(server, ours, official)
    assert accounts(server) == EVERYTHING


def test_a_conflict_does_not_stop_local_work(server, rivals):
    ours, official = rivals
    write_a_conflict(ours, 10)
    assert_refused(ours, 10)
    ours.execute("INSERT INTO Artist VALUES (900000, 'still here')")
    reopen(ours)
    ours.replica.checkpoint()
    assert_refused(ours, 10)
    ours.execute("INSERT INTO Artist VALUES (900001, 'here too')")
    free_the_value(official)
    content = settle(server, ours, official)
    assert {900000, 900001} <= {row[0][1] for row in content["Artist"]}


REPAIRS = ["UPDATE account SET email = 'mine@x' WHERE id = 11", "DELETE FROM account WHERE id = 11"]


@pytest.mark.parametrize("first", ["push", "pull"])
@pytest.mark.parametrize("repair", REPAIRS)
def test_a_local_repair_lets_the_change_through(server, rivals, repair, first):
    ours, official = rivals
    write_a_conflict(ours, 10)
    assert_refused(ours, 10)
    ours.execute(repair)
    getattr(ours, first)()
    settle(server, ours, official)
    assert set(accounts(server)) >= {1, 10, 12, 13}


def test_the_official_client_cannot_commit_half_a_transaction(server, rivals):
    """The server ends the transaction at the failed step, so that a client that goes on regardless commits nothing."""
    ours, official = rivals
    write_a_conflict(official, 10)
    for _ in range(2):
        with pytest.raises(turso.sync.Error) as refused:
            official.push()
        assert "UNIQUE" in str(refused.value)
        assert accounts(server) == {1: "taken@x"}
    ours.pull()
    ours.execute("INSERT INTO account VALUES (2, 'other@x', 'ours')")
    ours.push()
    assert accounts(server) == {1: "taken@x", 2: "other@x"}, "somebody else committed the open rest"
