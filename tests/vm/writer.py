#!/usr/bin/env python3
"""A service that writes: numbered transactions, each told to a file elsewhere once it is durable.

    writer.py files|sqlite FOLDER ACKNOWLEDGED

Goes on where the last one ended. `check` says what is wrong with what is in FOLDER.
"""

import hashlib
import os
import pathlib
import sqlite3
import sys


def content(number):
    """The bytes of a transaction, known from its number; of several blocks now and then."""
    seed = hashlib.sha256(str(number).encode()).digest()
    return seed * (1 + number % 7 * 40)


class Files:
    """A file for each transaction, its name durable, too."""

    def __init__(self, folder):
        self.folder = folder

    def numbers(self):
        return {int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit()}

    def commit(self, number):
        # Written under another name first: after a crash what has a number is whole.
        new, path = self.folder / "new", self.folder / str(number)
        with open(new, "wb") as file:
            file.write(content(number))
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
        directory = os.open(self.folder, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def wrong(self):
        return [f"{number} came back changed" for number in self.numbers()
                if (self.folder / str(number)).read_bytes() != content(number)]


class Sqlite:
    """A table of a database with a write-ahead log that is flushed at each commit."""

    def __init__(self, folder):
        self.database = sqlite3.connect(folder / "database", isolation_level=None, timeout=60)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=FULL")
        self.database.execute("CREATE TABLE IF NOT EXISTS entry (number INTEGER PRIMARY KEY, content BLOB, sum TEXT)")

    def numbers(self):
        return {number for number, in self.database.execute("SELECT number FROM entry")}

    def commit(self, number):
        bytes_ = content(number)
        self.database.execute("BEGIN IMMEDIATE")
        self.database.execute("INSERT INTO entry VALUES (?, ?, ?)", (number, bytes_, hashlib.sha256(bytes_).hexdigest()))
        self.database.execute("COMMIT")

    def wrong(self):
        found = [f"integrity_check: {line}" for line, in self.database.execute("PRAGMA integrity_check") if line != "ok"]
        for number, bytes_, sum_ in self.database.execute("SELECT number, content, sum FROM entry"):
            if bytes_ != content(number) or hashlib.sha256(bytes_).hexdigest() != sum_:
                found.append(f"entry {number} came back changed")
        return found


KINDS = {"files": Files, "sqlite": Sqlite}


def acknowledged(path):
    """Numbers told as durable; a last line without its end was never told."""
    try:
        return [int(line) for line in path.read_text().split("\n")[:-1]]
    except FileNotFoundError:
        return []


def main(kind, folder, acked):
    service = KINDS[kind](pathlib.Path(folder))
    told = os.open(acked, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    number = max(service.numbers(), default=0)
    while True:
        number += 1
        service.commit(number)
        os.write(told, f"{number}\n".encode())


if __name__ == "__main__":
    if sys.argv[1] == "check":
        kind, folder, acked = sys.argv[2:]
        service = KINDS[kind](pathlib.Path(folder))
        # Before looking: the service goes on meanwhile.
        told = acknowledged(pathlib.Path(acked))
        wrong = service.wrong()
        numbers = service.numbers()
        missing = [number for number in told if number not in numbers]
        wrong += [f"{number} was acknowledged and is not there" for number in missing]
        print(f"{len(numbers)} there", *wrong[:20], sep="\n")
        sys.exit(1 if wrong else 0)
    main(*sys.argv[1:])
