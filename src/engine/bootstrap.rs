//! Create and open.
//!
//! A download is validated and durable in `<db>-changes` before the metadata announces it; only then it becomes
//! the main file, by a rename. Until the replica has been opened once, the metadata carries the checksum of the
//! downloaded file, so that no other file is ever taken for it. A crash anywhere leads to the same download again
//! or to a replica that is complete.

use super::delta;
use super::image::{self, Image};
use super::metadata::{BootstrapMark, DatabaseMetadata, SavedConfiguration};
use super::remote::{Shared, check_reserved};
use super::{BUSY_TIMEOUT, Task, base_state};
use crate::capture::state::{self, FileKind, ReplicaState};
use crate::error::{Category, Code, Error, Result};
use crate::io::SyncEngineIo;
use crate::pages::reserve_bytes;
use crate::protocol::pull::PullEvent;
use crate::protocol::url;

impl Task {
    /// `create_db` and `open`.
    pub(super) async fn open_or_create(&self, create: bool) -> Result<()> {
        let bootstrap = create && self.opts.bootstrap_if_empty;
        self.open_with(create, bootstrap).await
    }

    /// `bootstrap_db`.
    pub(super) async fn bootstrap_or_open(&self) -> Result<()> {
        self.open_with(true, true).await
    }

    async fn open_with(&self, create: bool, bootstrap: bool) -> Result<()> {
        if self.metadata().is_some() {
            return Ok(());
        }
        // Opening what is there needs no lock: another process may be waiting for its network meanwhile.
        let kind = state::inspect(self.path(), BUSY_TIMEOUT).map_err(|e| self.unreadable(e))?;
        let metadata = match kind {
            FileKind::Replica(state) => self.reopen(self.read_info().await?, &state)?,
            _ => {
                let _guard = self.lock.acquire()?;
                self.make(create, bootstrap).await?
            }
        };
        self.finish_open(metadata).await
    }

    /// Says more about a file that SQLite cannot read.
    fn unreadable(&self, mut e: Error) -> Error {
        if e.code == Code::NotADb {
            e.category = Category::Identity;
            e.message = format!(
                "{}: {} is no SQLite database, or an encrypted one, or damaged; it is left as it is - choose another path",
                e.message, self.opts.path
            );
        }
        e
    }

    async fn read_info(&self) -> Result<Option<DatabaseMetadata>> {
        let stored = self.queue.full_read(&self.files.info).await?.body;
        DatabaseMetadata::parse(&stored, &self.files.info)
    }

    /// There was no replica; somebody may have made one since.
    async fn make(&self, create: bool, bootstrap: bool) -> Result<DatabaseMetadata> {
        let stored = self.read_info().await?;
        match (stored, state::inspect(self.path(), BUSY_TIMEOUT)?) {
            (stored, FileKind::Replica(state)) => self.reopen(stored, &state),
            (Some(stored), FileKind::PlainDatabase) => self.finish_bootstrap(stored),
            (None, FileKind::PlainDatabase) if create && self.opts.adopt_database => self.adopt_database(),
            (None, FileKind::PlainDatabase) => Err(self.not_a_replica()?),
            (Some(stored), FileKind::Nothing) if stored.bootstrap().is_none() => {
                Err(Error::corrupt(format!(
                    "the main file {} is gone, but its metadata {} are there; restore the file, or remove the metadata \
                 to start again",
                    self.opts.path, self.files.info
                )))
            }
            (_, FileKind::Nothing) if !create => Err(Error::misuse(format!(
                "metadata not found: there is no complete replica at {}; create it first",
                self.opts.path
            ))),
            (stored, FileKind::Nothing) => {
                // A download that was cut short before its rename keeps its identity, and nothing else.
                let client_id = stored.map_or_else(|| self.new_client_id(), |stored| stored.client_unique_id);
                self.create(DatabaseMetadata::new(client_id), bootstrap).await
            }
        }
    }

    /// The error for a database that is somebody's: what it is, and how its content gets into a replica.
    pub(super) fn not_a_replica(&self) -> Result<Error> {
        let path = &self.opts.path;
        let plain = state::describe_plain(self.path(), BUSY_TIMEOUT)?;
        if plain.has_log {
            return Ok(Error::identity(format!(
                "{path} is a replica of another implementation of Turso sync, or what is left of one; it is left as it is - \
                 push its changes with that implementation, and choose another path"
            )));
        }
        let way = match plain.encoding.as_str() {
            "UTF-8" => "ATTACH this file there",
            _ => "make a UTF-8 copy of this file (.dump of the sqlite3 shell), ATTACH that there",
        };
        Ok(Error::identity(format!(
            "{path} is a SQLite database that never was a replica (pages of {} bytes, {}); it is left as it is - make it \
             a replica with adopt_database, or create a replica at another path, {way}, and copy the tables with CREATE TABLE \
             and INSERT ... SELECT",
            plain.page_size, plain.encoding
        )))
    }

    /// The replica exists: its own state decides, the metadata follow.
    fn reopen(&self, stored: Option<DatabaseMetadata>, state: &ReplicaState) -> Result<DatabaseMetadata> {
        let mut metadata = stored.unwrap_or_else(|| DatabaseMetadata::new(state.client_id.clone()));
        if metadata.client_unique_id != state.client_id {
            let former = state::former_client_id(&state::open_internal(self.path(), BUSY_TIMEOUT)?)?;
            if metadata.client_unique_id != former {
                // Those of another replica, whose remote may be another one, too.
                metadata = DatabaseMetadata::new(state.client_id.clone());
            }
            metadata.set_client_id(state.client_id.clone());
        }
        metadata.set_bootstrap(None);
        metadata.set_revision(&state.revision);
        crate::io::files::remove_leftovers(self.files.info.as_ref());
        crate::io::files::remove_leftovers(&self.files.changes);
        delta::remove_foreign(&self.files.changes, |title| {
            title.client_id == state.client_id && title.epoch == state.epoch && title.base == state.revision
        })?;
        crate::io::files::remove_leftovers(&self.files.download);
        if let Ok(guard) = self.lock.acquire() {
            // After a crash in a checkpoint, the log must be looked at before it grows. Not with `state`: another
            // process may have pulled since it was read.
            self.base(&guard)?;
        }
        Ok(metadata)
    }

    async fn create(&self, mut metadata: DatabaseMetadata, bootstrap: bool) -> Result<DatabaseMetadata> {
        self.save_configuration(&mut metadata);
        // Side files of a main file that does not exist belong to nothing, and a stale log would be replayed.
        for suffix in ["-wal", "-shm", "-wal-revert"] {
            remove_if_there(&self.files.beside(suffix))?;
        }
        if !bootstrap {
            metadata.set_bootstrap(None);
            self.initialize(&metadata, 0)?;
            return Ok(metadata);
        }
        let (revision, mark) = self.download().await?;
        metadata.set_revision(&revision);
        metadata.last_pull_unix_time = Some(self.environment.unix_time());
        metadata.set_bootstrap(Some(mark));
        self.write_info(metadata.encode()?).await?;
        if mark.pages > 0 {
            crate::io::files::rename_durably(&self.files.changes, self.path())?;
        }
        self.initialize_download(&metadata, mark)?;
        metadata.set_bootstrap(None);
        Ok(metadata)
    }

    /// The metadata announce a download and there is a database without local tables: is it that download?
    fn finish_bootstrap(&self, mut metadata: DatabaseMetadata) -> Result<DatabaseMetadata> {
        let found = image::checksum(self.path())?;
        if metadata.bootstrap() != Some(found) {
            return Err(Error::identity(format!(
                "{} is not the replica that {} describes; restore the replica's file, or move both away to start again",
                self.opts.path, self.files.info
            )));
        }
        self.initialize_download(&metadata, found)?;
        metadata.set_bootstrap(None);
        Ok(metadata)
    }

    /// Makes what was downloaded a replica. If that is impossible because of what the remote has sent, and the file is
    /// still nothing but that, it goes: the next attempt downloads again.
    fn initialize_download(&self, metadata: &DatabaseMetadata, mark: BootstrapMark) -> Result<()> {
        // The download has ended, perhaps with the death of who came here first.
        image::remove_notes(&self.files.download)?;
        let Err(e) = self.initialize(metadata, mark.pages) else {
            return Ok(());
        };
        let at_fault = matches!(e.code, Code::Corrupt | Code::NotADb | Code::Error);
        if at_fault && mark.pages > 0 && image::checksum(self.path())? == mark {
            remove_if_there(self.path())?;
        }
        Err(e.context("bootstrap: the remote's database cannot be used"))
    }

    /// Makes the fresh base (or nothing) a replica.
    fn initialize(&self, metadata: &DatabaseMetadata, base_pages: u32) -> Result<()> {
        let state = ReplicaState {
            client_id: metadata.client_unique_id.clone(),
            epoch: 1,
            revision: metadata.revision().to_owned(),
            base_pages,
            change_floor: 0,
            sent: 0,
            acknowledged: 0,
            header: Default::default(),
        };
        if base_pages == 0 {
            let reserved = self.opts.reserved_bytes()?;
            state::create_empty(self.path(), BUSY_TIMEOUT, |conn| reserve_bytes(conn, reserved))?;
        }
        self.store.initialize(&base_state(&state))?;
        state::initialize(self.path(), &state, BUSY_TIMEOUT)
    }

    pub(super) fn save_configuration(&self, metadata: &mut DatabaseMetadata) -> bool {
        let wanted = SavedConfiguration {
            remote_url: self.opts.remote_url.clone(),
        };
        let changes = wanted.remote_url.is_some() && metadata.saved_url() != wanted.remote_url.as_deref();
        if changes || metadata.saved_configuration.is_none() {
            metadata.saved_configuration = Some(wanted);
            return true;
        }
        false
    }

    async fn finish_open(&self, mut metadata: DatabaseMetadata) -> Result<()> {
        let stored = self.queue.full_read(&self.files.info).await?.body;
        self.save_configuration(&mut metadata);
        self.recall_dialects(&metadata);
        self.record_dialects(&mut metadata);
        let content = metadata.encode()?;
        if stored != content {
            self.write_info(content).await?;
        }
        *self.metadata() = Some(metadata);
        Ok(())
    }

    /// Downloads the whole remote into `<db>-changes`, as a database image; the revision and what the image is. Goes on
    /// where an earlier download was interrupted.
    async fn download(&self) -> Result<(String, BootstrapMark)> {
        let remote = match &self.opts.remote_url {
            Some(url) => Some(url::normalize(url)?),
            None => None,
        };
        let notes = &self.files.download;
        let image = Shared::new(Image::resume(&self.files.changes, notes, remote.as_deref())?);
        let (chunk, reserved) = (self.opts.pages_per_request(), self.opts.reserved_bytes()?);
        while let Some(request) = image.with(|image| image.next_request(chunk))? {
            let sink = image.clone();
            let answer = self
                .fetch_pages("bootstrap", &request, move |event| {
                    sink.with(|image| match event {
                        PullEvent::Header(header) => image.header(&header),
                        PullEvent::Page { page_no, data } => {
                            check_reserved(page_no, data, reserved)?;
                            image.page(page_no, data)
                        }
                    })
                })
                .await;
            match answer {
                Ok(_) => image.with(|image| image.answered(&request))?,
                Err(e) if e.http_status == Some(409) && image.with(Image::revision_is_gone)? => {}
                Err(_) if image.with(|image| Ok(image.begins_anew()))? => {}
                Err(e) => {
                    if e.category == Category::Protocol && !e.retryable {
                        image.with(Image::distrust)?;
                    }
                    return Err(e);
                }
            }
        }
        image.take()?.finish()
    }
}

fn remove_if_there(path: &std::path::Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}
