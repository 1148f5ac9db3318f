//! A database that never was a replica becomes one, in place: over an empty base, all that it holds is pending.
//!
//! Nothing that a crash interrupts counts: the database is a plain one until a single transaction makes it a replica.

use super::metadata::DatabaseMetadata;
use super::{BUSY_TIMEOUT, Task, base_state};
use crate::capture::lineage::{Lineage, Segment};
use crate::capture::log::{LogEntry, write_entry};
use crate::capture::state::{self, PlainDatabase, ReplicaState};
use crate::error::{Error, Result};
use crate::pages::PAGE_SIZE;
use crate::replay::diff::{Numbering, content};

/// Rows, and bytes of row images, after which the content goes on in another transaction: a push sends transactions whole.
const TRANSACTION_ROWS: usize = 1000;
const TRANSACTION_BYTES: usize = 4 << 20;

impl Task {
    /// Makes the database at the path of the replica one.
    pub(super) fn adopt_database(&self) -> Result<DatabaseMetadata> {
        self.check_adoptable(&state::describe_plain(self.path(), BUSY_TIMEOUT)?)?;
        let mut metadata = DatabaseMetadata::new(self.new_client_id());
        self.save_configuration(&mut metadata);
        metadata.set_bootstrap(None);
        let state = ReplicaState {
            client_id: metadata.client_unique_id.clone(),
            epoch: 1,
            revision: String::new(),
            base_pages: 0,
            change_floor: 0,
            sent: 0,
            acknowledged: 0,
            // Those of the file are pending, like everything else.
            header: Default::default(),
        };
        state::empty_log(self.path(), BUSY_TIMEOUT)?;
        self.store.initialize(&base_state(&state))?;
        let numbering = Numbering {
            first_change_id: 1,
            change_time: self.environment.unix_time(),
        };
        let token = self.writer.new_token();
        state::adopt(self.path(), &state, BUSY_TIMEOUT, |conn| {
            let mut transaction = Transaction::default();
            let is_local = |name: &str| self.ignored.contains(name);
            content(conn, &is_local, numbering, &mut |entry| {
                write_entry(conn, &transaction.take(entry))
            })?;
            Lineage::begin_in(conn, Segment { first: 1, token })
        })?;
        Ok(metadata)
    }

    fn check_adoptable(&self, plain: &PlainDatabase) -> Result<()> {
        let path = &self.opts.path;
        let reserved = self.opts.reserved_bytes()?;
        if plain.has_log {
            return Err(self.not_a_replica()?);
        }
        if plain.page_size != PAGE_SIZE as i64 || plain.reserved_bytes != reserved {
            return Err(Error::identity(format!(
                "{path} has pages of {} bytes, {} of them reserved; a replica needs {PAGE_SIZE}, {reserved} of them \
                 reserved - it is left as it is: PRAGMA journal_mode = DELETE; PRAGMA page_size = {PAGE_SIZE}; VACUUM \
                 changes the size",
                plain.page_size, plain.reserved_bytes
            )));
        }
        if plain.encoding != "UTF-8" {
            return Err(self.not_a_replica()?);
        }
        Ok(())
    }
}

/// The transaction that is being filled.
#[derive(Default)]
struct Transaction {
    id: i64,
    rows: usize,
    bytes: usize,
}

impl Transaction {
    fn take(&mut self, entry: LogEntry) -> LogEntry {
        if self.id == 0 || self.rows >= TRANSACTION_ROWS || self.bytes >= TRANSACTION_BYTES {
            *self = Transaction {
                id: entry.change_id,
                ..Transaction::default()
            };
        }
        self.rows += 1;
        self.bytes += entry.image_bytes();
        LogEntry {
            txn_id: self.id,
            ..entry
        }
    }
}
