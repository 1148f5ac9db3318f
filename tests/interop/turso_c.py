"""A host program for turso-sync in Python: the C interface through ctypes, with HTTP and files of its own.

    replica = Replica("app.db", "http://127.0.0.1:8080", "my-app")
    replica.create()
    db = replica.connect()
    db.execute("INSERT INTO t VALUES (?, ?)", (1, "text"))
    replica.push()
    replica.pull()

It drives operations request by request, as a host with its own network does; the library's built-in driver is not
used. Text is `str` (bytes that are not UTF-8 as surrogate escapes), blobs are `bytes`.
"""
import contextlib
import ctypes
import http.client
import os
import tempfile
import urllib.parse
from ctypes import POINTER, byref, c_bool, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

OK, DONE, ROW, IO = 0, 1, 2, 3
NAMES = {
    4: "BUSY", 5: "INTERRUPT", 6: "BUSY_SNAPSHOT", 127: "ERROR", 128: "MISUSE", 129: "CONSTRAINT", 130: "READONLY",
    131: "DATABASE_FULL", 132: "NOTADB", 133: "CORRUPT", 134: "IOERR",
}
INTEGER, REAL, TEXT, BLOB, NULL = 1, 2, 3, 4, 5
HTTP, FULL_READ, FULL_WRITE = 1, 2, 3
POLICIES = {"stop": 0, "overwrite": 1, "set aside": 2}
RESOLUTIONS = {"retry": 1, "overwrite": 2, "set aside": 3, "drop": 4}
STATES = {1: "blocked", 2: "overwrite", 3: "set aside"}
KINDS = {
    0: "OTHER", 1: "UNIQUE", 2: "NOT NULL", 3: "CHECK", 4: "FOREIGN KEY", 5: "TRIGGER", 6: "DATATYPE", 7: "SCHEMA",
    8: "DEPENDENCY",
}
OPERATIONS = {1: "insert", 2: "update", 3: "delete", 4: "schema"}
CHUNK = 64 * 1024
HTTP_TIMEOUT_S = 60


class TursoError(Exception):
    """A call of the library failed: `code` (a number of turso_status_code_t), `name` of the code, `message`."""

    def __init__(self, code, message):
        self.code, self.name, self.message = code, NAMES.get(code, str(code)), message
        super().__init__(f"{self.name}: {message}")


class Slice(ctypes.Structure):
    _fields_ = [("ptr", c_void_p), ("len", c_size_t)]

    def bytes(self):
        return ctypes.string_at(self.ptr, self.len) if self.ptr and self.len else b""

    @classmethod
    def of(cls, data):
        return cls(ctypes.cast(c_char_p(data), c_void_p), len(data))


class DatabaseConfig(ctypes.Structure):
    _fields_ = [
        ("async_io", c_uint64), ("path", c_char_p), ("experimental_features", c_char_p), ("vfs", c_char_p),
        ("encryption_cipher", c_char_p), ("encryption_hexkey", c_char_p), ("page_codec", c_void_p),
        ("open_flags", c_uint32),
    ]


class SyncConfig(ctypes.Structure):
    _fields_ = [
        ("path", c_char_p), ("remote_url", c_char_p), ("client_name", c_char_p), ("long_poll_timeout_ms", c_int32),
        ("bootstrap_if_empty", c_bool), ("reserved_bytes", c_int32), ("partial_bootstrap_strategy_prefix", c_int32),
        ("partial_bootstrap_strategy_query", c_char_p), ("partial_bootstrap_segment_size", c_size_t),
        ("partial_bootstrap_prefetch", c_bool), ("remote_encryption_key", c_char_p),
        ("remote_encryption_cipher", c_char_p), ("push_operations_threshold", c_size_t),
        ("pull_bytes_threshold", c_size_t), ("logical_mvcc_pull", c_bool),
    ]


class HttpRequest(ctypes.Structure):
    _fields_ = [("url", Slice), ("method", Slice), ("path", Slice), ("body", Slice), ("headers", c_int32)]


class HttpHeader(ctypes.Structure):
    _fields_ = [("key", Slice), ("value", Slice)]


class ReadRequest(ctypes.Structure):
    _fields_ = [("path", Slice)]


class WriteRequest(ctypes.Structure):
    _fields_ = [("path", Slice), ("content", Slice)]


class Stats(ctypes.Structure):
    _fields_ = [
        ("cdc_operations", c_int64), ("main_wal_size", c_int64), ("revert_wal_size", c_int64),
        ("last_pull_unix_time", c_int64), ("last_push_unix_time", c_int64), ("network_sent_bytes", c_int64),
        ("network_received_bytes", c_int64), ("revision", Slice),
    ]


class Options(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t), ("conflict_policy", c_uint32), ("tables_ignore", POINTER(c_char_p)),
        ("tables_ignore_count", c_size_t),
    ]


class Conflict(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t), ("id", c_int64), ("change_id", c_int64), ("state", c_uint32), ("kind", c_uint32),
        ("operation", c_uint32), ("sqlite_code", c_int32), ("changes", c_int64), ("unix_time", c_int64),
        ("table", Slice), ("key", Slice), ("constraint", Slice), ("message", Slice),
    ]


assert ctypes.sizeof(DatabaseConfig) == 64 and ctypes.sizeof(SyncConfig) == 104
assert ctypes.sizeof(HttpRequest) == 72 and ctypes.sizeof(Stats) == 72
assert ctypes.sizeof(Options) == 32 and ctypes.sizeof(Conflict) == 120

H, OUT, ERR = c_void_p, POINTER(c_void_p), POINTER(c_void_p)
# name -> (type of the result, types of the arguments); functions that end in ERR report through `error_opt_out`.
FUNCTIONS = {
    "turso_str_deinit": (None, [c_void_p]),
    "turso_connection_deinit": (None, [H]),
    "turso_connection_set_busy_timeout_ms": (None, [H, c_int64]),
    "turso_connection_get_autocommit": (c_bool, [H]),
    "turso_connection_prepare_single": (c_uint32, [H, c_char_p, OUT, ERR]),
    "turso_statement_deinit": (None, [H]),
    "turso_statement_execute": (c_uint32, [H, POINTER(c_uint64), ERR]),
    "turso_statement_step": (c_uint32, [H, ERR]),
    "turso_statement_column_count": (c_int64, [H]),
    "turso_statement_row_value_kind": (c_uint32, [H, c_size_t]),
    "turso_statement_row_value_int": (c_int64, [H, c_size_t]),
    "turso_statement_row_value_double": (c_double, [H, c_size_t]),
    "turso_statement_row_value_bytes_count": (c_int64, [H, c_size_t]),
    "turso_statement_row_value_bytes_ptr": (c_void_p, [H, c_size_t]),
    "turso_statement_bind_positional_null": (c_uint32, [H, c_size_t]),
    "turso_statement_bind_positional_int": (c_uint32, [H, c_size_t, c_int64]),
    "turso_statement_bind_positional_double": (c_uint32, [H, c_size_t, c_double]),
    "turso_statement_bind_positional_text": (c_uint32, [H, c_size_t, c_char_p, c_size_t]),
    "turso_statement_bind_positional_blob": (c_uint32, [H, c_size_t, c_char_p, c_size_t]),
    "turso_sync_database_new_with_options": (
        c_uint32, [POINTER(DatabaseConfig), POINTER(SyncConfig), POINTER(Options), OUT, ERR],
    ),
    "turso_sync_database_open": (c_uint32, [H, OUT, ERR]),
    "turso_sync_database_create": (c_uint32, [H, OUT, ERR]),
    "turso_sync_database_connect": (c_uint32, [H, OUT, ERR]),
    "turso_sync_database_stats": (c_uint32, [H, OUT, ERR]),
    "turso_sync_database_checkpoint": (c_uint32, [H, OUT, ERR]),
    "turso_sync_database_push_changes": (c_uint32, [H, OUT, ERR]),
    "turso_sync_database_wait_changes": (c_uint32, [H, OUT, ERR]),
    "turso_sync_database_apply_changes": (c_uint32, [H, H, OUT, ERR]),
    "turso_sync_database_resolve_conflict": (c_uint32, [H, c_int64, c_uint32, OUT, ERR]),
    "turso_sync_database_conflicts": (c_uint32, [H, OUT, ERR]),
    "turso_sync_conflicts_count": (c_size_t, [H]),
    "turso_sync_conflicts_get": (c_uint32, [H, c_size_t, POINTER(Conflict)]),
    "turso_sync_conflicts_deinit": (None, [H]),
    "turso_sync_operation_resume": (c_uint32, [H, ERR]),
    "turso_sync_operation_result_extract_connection": (c_uint32, [H, OUT]),
    "turso_sync_operation_result_extract_changes": (c_uint32, [H, OUT]),
    "turso_sync_operation_result_extract_stats": (c_uint32, [H, POINTER(Stats)]),
    "turso_sync_database_io_take_item": (c_uint32, [H, OUT, ERR]),
    "turso_sync_database_io_step_callbacks": (c_uint32, [H, ERR]),
    "turso_sync_database_io_request_kind": (c_uint32, [H]),
    "turso_sync_database_io_request_http": (c_uint32, [H, POINTER(HttpRequest)]),
    "turso_sync_database_io_request_http_header": (c_uint32, [H, c_size_t, POINTER(HttpHeader)]),
    "turso_sync_database_io_request_full_read": (c_uint32, [H, POINTER(ReadRequest)]),
    "turso_sync_database_io_request_full_write": (c_uint32, [H, POINTER(WriteRequest)]),
    "turso_sync_database_io_status": (c_uint32, [H, c_int32]),
    "turso_sync_database_io_push_buffer": (c_uint32, [H, POINTER(Slice)]),
    "turso_sync_database_io_poison": (c_uint32, [H, POINTER(Slice)]),
    "turso_sync_database_io_done": (c_uint32, [H]),
    "turso_sync_database_deinit": (None, [H]),
    "turso_sync_operation_deinit": (None, [H]),
    "turso_sync_database_io_item_deinit": (None, [H]),
    "turso_sync_changes_deinit": (None, [H]),
}


def _load():
    path = os.environ.get("TURSO_SYNC_LIB", "target/release/libturso_sync.so")
    library = ctypes.CDLL(os.path.abspath(path))
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


lib = _load()


def call(name, *args):
    """Calls a function that returns a status and may report a message; returns the status if it is no error."""
    error = c_void_p()
    reports = FUNCTIONS[name][1][-1] is ERR
    code = getattr(lib, name)(*args, byref(error)) if reports else getattr(lib, name)(*args)
    if code <= IO:
        return code
    message = ""
    if error.value:
        message = ctypes.string_at(error.value).decode()
        lib.turso_str_deinit(error)
    raise TursoError(code, message or name)


class Connection:
    """A connection to a replica; one thread at a time."""

    def __init__(self, handle):
        self._handle = handle
        lib.turso_connection_set_busy_timeout_ms(handle, 10_000)

    def execute(self, sql, params=()):
        """Runs one statement to its end; returns the number of rows it changed."""
        with self._statement(sql, params) as statement:
            changed = c_uint64()
            call("turso_statement_execute", statement, byref(changed))
            return changed.value

    def query(self, sql, params=()):
        """Runs one statement and returns its rows as tuples."""
        with self._statement(sql, params) as statement:
            rows = []
            while call("turso_statement_step", statement) == ROW:
                columns = lib.turso_statement_column_count(statement)
                rows.append(tuple(_value(statement, i) for i in range(columns)))
            return rows

    @contextlib.contextmanager
    def transaction(self):
        """Commits what its block wrote; rolls back if the block raised."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield self
            self.execute("COMMIT")
        except BaseException:
            if not lib.turso_connection_get_autocommit(self._handle):
                self.execute("ROLLBACK")
            raise

    def close(self):
        handle, self._handle = self._handle, None
        lib.turso_connection_deinit(handle)

    @contextlib.contextmanager
    def _statement(self, sql, params):
        statement = c_void_p()
        call("turso_connection_prepare_single", self._handle, sql.encode(), byref(statement))
        try:
            for position, value in enumerate(params, 1):
                _bind(statement, position, value)
            yield statement
        finally:
            lib.turso_statement_deinit(statement)


def _bind(statement, position, value):
    bind = "turso_statement_bind_positional_"
    if value is None:
        call(bind + "null", statement, position)
    elif isinstance(value, int):
        call(bind + "int", statement, position, value)
    elif isinstance(value, float):
        call(bind + "double", statement, position, value)
    elif isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        call(bind + "text", statement, position, data, len(data))
    else:
        call(bind + "blob", statement, position, bytes(value), len(value))


def _value(statement, i):
    kind = lib.turso_statement_row_value_kind(statement, i)
    if kind == INTEGER:
        return lib.turso_statement_row_value_int(statement, i)
    if kind == REAL:
        return lib.turso_statement_row_value_double(statement, i)
    if kind in (TEXT, BLOB):
        size = lib.turso_statement_row_value_bytes_count(statement, i)
        data = ctypes.string_at(lib.turso_statement_row_value_bytes_ptr(statement, i), size) if size else b""
        return data if kind == BLOB else data.decode("utf-8", "surrogateescape")
    assert kind == NULL, f"unknown kind of value {kind}"
    return None


def _conflict(conflicts, i):
    conflict = Conflict(size=ctypes.sizeof(Conflict))
    call("turso_sync_conflicts_get", conflicts, i, byref(conflict))
    found = {name: getattr(conflict, name) for name, _ in Conflict._fields_[1:]}
    names = {"state": STATES, "kind": KINDS, "operation": OPERATIONS}
    found.update({field: known[found[field]] for field, known in names.items()})
    return {name: value.bytes().decode() if isinstance(value, Slice) else value for name, value in found.items()}


class Replica:
    """A replica and the host that serves its requests. `settings` are fields of turso_sync_database_config_t."""

    def __init__(
        self, path, url, client_name="interop", token=None, conflict_policy="stop", tables_ignore=(), **settings
    ):
        self.path, self.url, self.token = os.fspath(path), url, token
        self._connections = []
        database = DatabaseConfig(async_io=1, path=self.path.encode())
        settings.setdefault("bootstrap_if_empty", True)
        sync = SyncConfig(
            path=self.path.encode(), remote_url=url.encode(), client_name=client_name.encode(), **settings
        )
        names = (c_char_p * len(tables_ignore))(*(name.encode() for name in tables_ignore))
        options = Options(ctypes.sizeof(Options), POLICIES[conflict_policy], names, len(names))
        self._handle = c_void_p()
        arguments = byref(database), byref(sync), byref(options), byref(self._handle)
        call("turso_sync_database_new_with_options", *arguments)

    def create(self):
        with self._operation("create"):
            return self

    def open(self):
        with self._operation("open"):
            return self

    def connect(self):
        with self._operation("connect") as operation:
            handle = c_void_p()
            call("turso_sync_operation_result_extract_connection", operation, byref(handle))
            connection = Connection(handle)
            self._connections.append(connection)
            return connection

    def push(self):
        with self._operation("push_changes"):
            pass

    def wait(self):
        """Downloads; returns a change set for `apply`, or None if nothing is new."""
        with self._operation("wait_changes") as operation:
            changes = c_void_p()
            call("turso_sync_operation_result_extract_changes", operation, byref(changes))
            return changes if changes.value else None

    def apply(self, changes):
        """Applies a change set, which is consumed in every case."""
        with self._operation("apply_changes", changes):
            pass

    def discard(self, changes):
        """Releases a change set without applying it."""
        lib.turso_sync_changes_deinit(changes)

    def pull(self):
        """Downloads and applies; True if something was new."""
        changes = self.wait()
        if changes is None:
            return False
        self.apply(changes)
        return True

    def checkpoint(self):
        with self._operation("checkpoint"):
            pass

    def stats(self):
        """Figures as a dict with the names of turso_sync_stats_t."""
        with self._operation("stats") as operation:
            stats = Stats()
            call("turso_sync_operation_result_extract_stats", operation, byref(stats))
            figures = {name: getattr(stats, name) for name, _ in Stats._fields_}
            figures["revision"] = stats.revision.bytes().decode()
            return figures

    def conflicts(self):
        """The conflicts as dicts with the names of turso_sync_conflict_t; `key` is the JSON text."""
        handle = c_void_p()
        call("turso_sync_database_conflicts", self._handle, byref(handle))
        try:
            return [_conflict(handle, i) for i in range(lib.turso_sync_conflicts_count(handle))]
        finally:
            lib.turso_sync_conflicts_deinit(handle)

    def resolve(self, conflict, how):
        """Resolves the conflict with the number `conflict`: "retry", "overwrite", "set aside" or "drop"."""
        with self._operation("resolve_conflict", conflict, RESOLUTIONS[how]):
            pass

    def close(self):
        """Releases all connections and the replica."""
        for connection in self._connections:
            if connection._handle:
                connection.close()
        self._connections = []
        handle, self._handle = self._handle, None
        lib.turso_sync_database_deinit(handle)

    @contextlib.contextmanager
    def _operation(self, name, *args):
        """Runs an operation to its end and lends it for extracting the result."""
        operation = c_void_p()
        call("turso_sync_database_" + name, self._handle, *args, byref(operation))
        try:
            while call("turso_sync_operation_resume", operation) != DONE:
                self._serve_queue()
            yield operation
        finally:
            lib.turso_sync_operation_deinit(operation)

    def _serve_queue(self):
        while True:
            item = c_void_p()
            call("turso_sync_database_io_take_item", self._handle, byref(item))
            if not item.value:
                break
            try:
                self._serve(item)
            except (OSError, http.client.HTTPException, ValueError) as problem:
                message = (str(problem) or repr(problem)).encode()
                call("turso_sync_database_io_poison", item, byref(Slice.of(message)))
            finally:
                lib.turso_sync_database_io_item_deinit(item)
        call("turso_sync_database_io_step_callbacks", self._handle)

    def _serve(self, item):
        kind = lib.turso_sync_database_io_request_kind(item)
        if kind == HTTP:
            self._serve_http(item)
        elif kind == FULL_READ:
            _serve_full_read(item)
        elif kind == FULL_WRITE:
            _serve_full_write(item)
        else:
            raise ValueError(f"unknown kind of request {kind}")

    def _serve_http(self, item):
        request = HttpRequest()
        call("turso_sync_database_io_request_http", item, byref(request))
        base = urllib.parse.urlsplit(request.url.bytes().decode() or self.url)
        headers = {}
        for i in range(request.headers):
            header = HttpHeader()
            call("turso_sync_database_io_request_http_header", item, i, byref(header))
            headers[header.key.bytes().decode()] = header.value.bytes().decode()
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        kind = http.client.HTTPSConnection if base.scheme == "https" else http.client.HTTPConnection
        connection = kind(base.hostname, base.port, timeout=HTTP_TIMEOUT_S)
        with contextlib.closing(connection):
            path = base.path.rstrip("/") + request.path.bytes().decode()
            connection.request(request.method.bytes().decode(), path, request.body.bytes(), headers)
            response = connection.getresponse()
            call("turso_sync_database_io_status", item, response.status)
            _stream(item, response)
        call("turso_sync_database_io_done", item)


def _stream(item, response):
    """Hands the body on and makes sure that it was not cut short (http.client does so for chunked bodies only)."""
    if response.length is None and not response.chunked:
        raise ValueError("the answer does not say how long it is")
    left = response.length
    while chunk := response.read(CHUNK):
        push(item, chunk)
        left = None if left is None else left - len(chunk)
    if left:
        raise ValueError(f"the answer was cut short: {left} bytes are missing")


def push(item, data):
    call("turso_sync_database_io_push_buffer", item, byref(Slice.of(data)))


def _serve_full_read(item):
    request = ReadRequest()
    call("turso_sync_database_io_request_full_read", item, byref(request))
    with contextlib.suppress(FileNotFoundError), open(os.fsdecode(request.path.bytes()), "rb") as file:
        while chunk := file.read(CHUNK):
            push(item, chunk)
    call("turso_sync_database_io_done", item)


def _serve_full_write(item):
    request = WriteRequest()
    call("turso_sync_database_io_request_full_write", item, byref(request))
    path = os.fsdecode(request.path.bytes())
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=os.path.basename(path) + ".")
    try:
        with open(handle, "wb") as file:
            file.write(request.content.bytes())
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    call("turso_sync_database_io_done", item)
