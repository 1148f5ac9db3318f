"""Starts, stops, kills and restarts the bundled sync server."""
import os
import re
import signal
import subprocess
import threading

BINARY = os.environ.get("TURSO_SYNC_SERVER", "target/release/turso-sync-server")


class Server:
    """A server on a loopback port that stays the same over restarts. `database` is its file."""

    def __init__(self, database, *arguments, folder=False):
        self.database, self.arguments, self.folder = os.fspath(database), arguments, folder
        self.process, self.port, self.log = None, 0, []
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        """Returns when the server has said which address it listens on."""
        served = ["--dir", self.database] if self.folder else [self.database]
        command = [os.path.abspath(BINARY), *self.arguments, f"127.0.0.1:{self.port}", *served]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in self.process.stdout:
            self.log.append(line)
            if found := re.search(r"listening on \S*?:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise RuntimeError(f"the server did not start (exit {self.process.wait()}): {''.join(self.log)}")
        threading.Thread(target=self._drain, args=(self.process.stdout,), daemon=True).start()

    def _drain(self, output):
        self.log.extend(output)

    def stop(self):
        """Graceful end; the server must exit with 0."""
        self._end(signal.SIGTERM, 0)

    def kill(self):
        """The end without a chance to clean up."""
        self._end(signal.SIGKILL, -signal.SIGKILL)

    def _end(self, sig, expected):
        self.process.send_signal(sig)
        code = self.process.wait(timeout=30)
        assert code == expected, f"the server ended with {code} instead of {expected}: {''.join(self.log)}"

    def restart(self, how="stop", database=None):
        """Ends the server (`stop` or `kill`) and starts it again on the same port, if wished on another file."""
        getattr(self, how)()
        self.database = os.fspath(database or self.database)
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()
