#!/usr/bin/env python3
"""sample.py OUT: a database to play with: the Chinook music shop if it lies beside the project, else a small one
with tables of the same shape, made here."""
import os
import random
import shutil
import sqlite3
import sys

CHINOOK = os.path.join(os.path.dirname(__file__), "..", "..", "..", "shared", "data", "chinook.sqlite")

SCHEMA = """
CREATE TABLE Artist (ArtistId INTEGER NOT NULL, Name NVARCHAR(120), CONSTRAINT PK_Artist PRIMARY KEY (ArtistId));
CREATE TABLE Album (AlbumId INTEGER NOT NULL, Title NVARCHAR(160) NOT NULL, ArtistId INTEGER NOT NULL,
    CONSTRAINT PK_Album PRIMARY KEY (AlbumId), FOREIGN KEY (ArtistId) REFERENCES Artist (ArtistId));
CREATE INDEX IFK_AlbumArtistId ON Album (ArtistId);
CREATE TABLE Track (TrackId INTEGER NOT NULL, Name NVARCHAR(200) NOT NULL, AlbumId INTEGER, Composer NVARCHAR(220),
    Milliseconds INTEGER NOT NULL, UnitPrice NUMERIC(10,2) NOT NULL,
    CONSTRAINT PK_Track PRIMARY KEY (TrackId), FOREIGN KEY (AlbumId) REFERENCES Album (AlbumId));
CREATE INDEX IFK_TrackAlbumId ON Track (AlbumId);
CREATE TABLE Playlist (PlaylistId INTEGER NOT NULL, Name NVARCHAR(120),
    CONSTRAINT PK_Playlist PRIMARY KEY (PlaylistId));
CREATE TABLE PlaylistTrack (PlaylistId INTEGER NOT NULL, TrackId INTEGER NOT NULL,
    CONSTRAINT PK_PlaylistTrack PRIMARY KEY (PlaylistId, TrackId),
    FOREIGN KEY (PlaylistId) REFERENCES Playlist (PlaylistId), FOREIGN KEY (TrackId) REFERENCES Track (TrackId));
CREATE INDEX IFK_PlaylistTrackTrackId ON PlaylistTrack (TrackId);
"""
FIRST = "Ana Béla Chloé Dmitri Eun-ji Farid Göran Hélène Ikumi João Kofi Łucja Małgorzata Nguyễn Özlem Søren".split()
SECOND = "Quartet Orchestra Trio Collective Experience Brass Choir Ensemble Sound System Project".split()
WORDS = "north river glass night copper slow garden signal winter paper hollow ember tide orbit velvet stone".split()


def make(path):
    """Writes a shop of 60 artists, 150 albums, 1,500 tracks and 12 playlists; always the same."""
    rng = random.Random(20)
    title = lambda: " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4))).capitalize()
    con = sqlite3.connect(path)
    con.executescript(SCHEMA)
    artists = [(i, f"{rng.choice(FIRST)} {rng.choice(SECOND)}") for i in range(1, 61)]
    con.executemany("INSERT INTO Artist VALUES (?, ?)", artists)
    albums = [(i, title(), rng.randint(1, 60)) for i in range(1, 151)]
    con.executemany("INSERT INTO Album VALUES (?, ?, ?)", albums)
    tracks = [
        (i, title(), rng.randint(1, 150), rng.choice([None, *FIRST]), rng.randint(60_000, 600_000), 0.99)
        for i in range(1, 1501)
    ]
    con.executemany("INSERT INTO Track VALUES (?, ?, ?, ?, ?, ?)", tracks)
    con.executemany("INSERT INTO Playlist VALUES (?, ?)", [(i, title()) for i in range(1, 13)])
    entries = {(rng.randint(1, 12), rng.randint(1, 1500)) for _ in range(600)}
    con.executemany("INSERT INTO PlaylistTrack VALUES (?, ?)", sorted(entries))
    con.commit()
    con.close()


def sample(path):
    """Puts the sample database at `path`, which must not exist."""
    if os.path.exists(CHINOOK):
        shutil.copyfile(CHINOOK, path)
    else:
        make(path)


if __name__ == "__main__":
    sample(sys.argv[1])
