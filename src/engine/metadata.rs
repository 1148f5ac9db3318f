//! `<db>-info`: what the host stores for us, as JSON. The keys are the official client's; ours are under
//! `turso_sync`. The file is a hint and an identity; what decides is the state inside the main file.

use serde::{Deserialize, Serialize};

use crate::error::{Category, Code, Error, Result};

/// Content of the metadata file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseMetadata {
    /// Always `v1`.
    pub version: String,
    /// Name of this replica on the remote: the client name and a random UUID. Belongs to one file only.
    pub client_unique_id: String,
    /// Revision of the base; `None` before the first contact.
    pub synced_revision: Option<Revision>,
    /// Unix seconds of the last pull, also an empty one.
    #[serde(default)]
    pub last_pull_unix_time: Option<i64>,
    /// Unix seconds of the last successful push.
    #[serde(default)]
    pub last_push_unix_time: Option<i64>,
    /// Always 0: change ids of this library are never renumbered.
    #[serde(default)]
    pub last_pushed_pull_gen_hint: i64,
    /// Change id that the remote acknowledged last, as far as a push has seen.
    #[serde(default)]
    pub last_pushed_change_id_hint: i64,
    /// Parts of the configuration that a later open may leave out.
    #[serde(default)]
    pub saved_configuration: Option<SavedConfiguration>,
    /// Ours; its absence says that another implementation made the replica.
    #[serde(default)]
    pub turso_sync: Option<Own>,
}

/// A revision as the official client stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Revision {
    /// The opaque text of the remote.
    V1 {
        /// The text.
        revision: String,
    },
}

/// Parts of the configuration that a later open may leave out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedConfiguration {
    /// URL of the remote.
    pub remote_url: Option<String>,
}

/// What only this library stores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// Layout of the side files.
    pub format: u32,
    /// Set from the end of the download until the replica has been opened once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapMark>,
    /// The remote has announced the direct dialect.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
}

/// What the downloaded main file must look like, so that no other file is taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BootstrapMark {
    /// Its pages.
    pub pages: u32,
    /// [`super::image::checksum`] of it.
    pub checksum: u32,
}

/// Layout of the side files that this version writes.
const FORMAT: u32 = 1;

impl DatabaseMetadata {
    /// Metadata of a replica that has never synced.
    pub fn new(client_unique_id: String) -> Self {
        DatabaseMetadata {
            version: "v1".into(),
            client_unique_id,
            synced_revision: None,
            last_pull_unix_time: None,
            last_push_unix_time: None,
            last_pushed_pull_gen_hint: 0,
            last_pushed_change_id_hint: 0,
            saved_configuration: None,
            turso_sync: Some(Own {
                format: FORMAT,
                bootstrap: None,
                direct: false,
            }),
        }
    }

    /// Parses the file; `None` if there is none.
    pub fn parse(bytes: &[u8], path: &str) -> Result<Option<Self>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let metadata: DatabaseMetadata = serde_json::from_slice(bytes).map_err(|e| {
            Error::corrupt(format!(
                "metadata file {path} is damaged ({e}); remove it, it is rebuilt from the database"
            ))
        })?;
        if metadata.version != "v1" {
            let text = format!(
                "metadata file {path} has version {:?}; this library knows only v1",
                metadata.version
            );
            return Err(Error::new(Category::Storage, Code::Error, text));
        }
        match &metadata.turso_sync {
            Some(own) if own.format == FORMAT => Ok(Some(metadata)),
            Some(own) => Err(Error::identity(format!(
                "{path} was written by a newer version of this library (format {}); upgrade it",
                own.format
            ))),
            None => Err(Error::identity(format!(
                "{path} belongs to a replica of another implementation of Turso sync; choose another path, or push \
                 its changes with that implementation and remove its files"
            ))),
        }
    }

    /// The file's content.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal(format!("cannot encode metadata: {e}")))
    }

    /// The base's revision; empty if there was never one.
    pub fn revision(&self) -> &str {
        match &self.synced_revision {
            Some(Revision::V1 { revision }) => revision,
            None => "",
        }
    }

    /// Sets the name of the replica. What was pushed under another one does not count.
    pub fn set_client_id(&mut self, client_id: String) {
        if self.client_unique_id != client_id {
            self.client_unique_id = client_id;
            self.last_pushed_change_id_hint = 0;
        }
    }

    /// Sets the base's revision.
    pub fn set_revision(&mut self, revision: &str) {
        self.synced_revision = (!revision.is_empty()).then(|| Revision::V1 {
            revision: revision.to_owned(),
        });
    }

    /// URL saved by an earlier open.
    pub fn saved_url(&self) -> Option<&str> {
        self.saved_configuration.as_ref()?.remote_url.as_deref()
    }

    /// What a download left behind, if the replica has not been opened since.
    pub fn bootstrap(&self) -> Option<BootstrapMark> {
        self.turso_sync.as_ref()?.bootstrap
    }

    /// Sets or clears [`bootstrap`](Self::bootstrap).
    pub fn set_bootstrap(&mut self, mark: Option<BootstrapMark>) {
        self.turso_sync = Some(Own {
            format: FORMAT,
            bootstrap: mark,
            direct: self.knows_direct(),
        });
    }

    /// Whether the remote has announced the direct dialect.
    pub fn knows_direct(&self) -> bool {
        self.turso_sync.as_ref().is_some_and(|own| own.direct)
    }

    /// Sets [`knows_direct`](Self::knows_direct).
    pub fn set_knows_direct(&mut self, known: bool) {
        if let Some(own) = &mut self.turso_sync {
            own.direct = known;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_keeps_everything() {
        let mut m = DatabaseMetadata::new("app-1".into());
        m.set_revision("r:7");
        m.set_knows_direct(true);
        m.set_bootstrap(Some(BootstrapMark {
            pages: 3,
            checksum: 4,
        }));
        assert!(m.knows_direct());
        m.saved_configuration = Some(SavedConfiguration {
            remote_url: Some("http://h".into()),
        });
        let bytes = m.encode().unwrap();
        assert_eq!(DatabaseMetadata::parse(&bytes, "x").unwrap(), Some(m));
        assert_eq!(DatabaseMetadata::parse(b"", "x").unwrap(), None);
    }

    #[test]
    fn foreign_damaged_and_newer_files_are_refused() {
        let official =
            br#"{"version":"v1","client_unique_id":"a","synced_revision":{"type":"v1","revision":"3"},
            "revert_since_wal_salt":null,"saved_configuration":null}"#;
        assert_eq!(
            DatabaseMetadata::parse(official, "x").unwrap_err().category,
            Category::Identity
        );
        assert_eq!(
            DatabaseMetadata::parse(b"{", "x").unwrap_err().code,
            Code::Corrupt
        );
        let v2 = br#"{"version":"v2","client_unique_id":"a","synced_revision":null}"#;
        assert!(
            DatabaseMetadata::parse(v2, "x")
                .unwrap_err()
                .message
                .contains("v2")
        );
        let mut m = DatabaseMetadata::new("a".into());
        m.turso_sync = Some(Own {
            format: 9,
            bootstrap: None,
            direct: false,
        });
        assert!(
            DatabaseMetadata::parse(&m.encode().unwrap(), "x")
                .unwrap_err()
                .message
                .contains("newer")
        );
    }
}
