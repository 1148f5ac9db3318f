//! How much of everything a client can have.

use std::time::Duration;

/// Bounds on what clients can make the server do and hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; further ones are answered 503 and closed.
    pub connections: usize,
    /// Connections at a time from one address.
    pub connections_per_address: usize,
    /// Requests that do SQLite work at a time; further ones wait.
    pub workers: usize,
    /// How long a request waits for its turn before it is answered 503.
    pub queue_time: Duration,
    /// How long a connection may take to send the head of its next request.
    pub header_time: Duration,
    /// How long the server waits in all for a client that sends or takes nothing.
    pub patience: Duration,
    /// Bytes per second that a client must send or take once the patience is used up.
    pub min_rate: u64,
    /// Longest body of a request that carries SQL, in bytes.
    pub body: usize,
    /// Bytes of long bodies in memory at a time, of all requests.
    pub bodies: usize,
    /// Longest time that one request may work in SQLite.
    pub statement_time: Duration,
    /// Most bytes of rows in one answer.
    pub rows: usize,
    /// Longest time a pull is held.
    pub long_poll: Duration,
    /// Longest time a client may take for an answer.
    pub answer_time: Duration,
    /// Bytes of answers that wait in files for slow clients.
    pub spool: u64,
    /// How long running requests may take to end when the server stops.
    pub stop_time: Duration,
    /// Bytes that SQLite may use in the whole process; 0: as much as there is.
    pub sqlite_memory: u64,
    /// Databases of a folder open at a time.
    pub databases: usize,
    /// How long an unused database of a folder stays open.
    pub idle_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1000,
            connections_per_address: 250,
            workers: 64,
            queue_time: Duration::from_secs(30),
            header_time: Duration::from_secs(30),
            patience: Duration::from_secs(30),
            min_rate: 1024,
            body: 512 << 20,
            bodies: 1 << 30,
            statement_time: Duration::from_secs(300),
            rows: 128 << 20,
            long_poll: Duration::from_secs(60),
            answer_time: Duration::from_secs(3600),
            spool: 4 << 30,
            stop_time: Duration::from_secs(10),
            sqlite_memory: 0,
            databases: 64,
            idle_time: Duration::from_secs(300),
        }
    }
}
