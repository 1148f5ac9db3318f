//! Answers on their way to the client. What a client does not take soon goes to a file without a name, so that a slow
//! one holds neither a snapshot of the database, nor a thread, nor memory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;

use super::http::Shared;

/// Bytes handed to the network at a time.
pub const PIECE_LEN: usize = 64 << 10;
/// Pieces that are in memory for one answer.
const PIECES: usize = 4;
/// How long a client may leave a piece lying before the rest goes to a file.
const SLOW: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<Result<Bytes, std::io::Error>>;

/// Something of which there is only so much for all clients together.
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// `limit` bytes, of which none is used.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Budget {
            limit,
            used: AtomicU64::new(0),
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A part of a budget, given back at the end.
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Share {
    /// Nothing yet.
    pub fn of(budget: &Arc<Budget>) -> Self {
        Share {
            budget: budget.clone(),
            bytes: 0,
        }
    }

    /// Takes `bytes` more; false if there is not so much left.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.budget.limit {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A body whose pieces `produce` gives to its argument, on a thread where it may block; it ends early when that returns
/// false. `permit` is given back as soon as everything has been produced.
pub fn body<F>(shared: &Arc<Shared>, permit: Option<OwnedSemaphorePermit>, produce: F) -> Body
where
    F: FnOnce(&mut dyn FnMut(Bytes) -> bool) -> crate::error::Result<()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(PIECES);
    let shared = shared.clone();
    let runtime = tokio::runtime::Handle::current();
    spawn_blocking(move || {
        let deadline = Instant::now() + shared.limits.answer_time;
        let mut outgoing = Outgoing {
            shared: &shared,
            sender: &sender,
            runtime: &runtime,
            file: None,
            failed: None,
        };
        let produced = produce(&mut |piece| outgoing.send(piece));
        let (file, failed) = (outgoing.file.take(), outgoing.failed.take());
        drop(permit);
        let failed = failed.or_else(|| produced.err().map(std::io::Error::other));
        if let Some(e) = &failed {
            shared.log.warn("an answer was cut short", e);
        }
        runtime.spawn(async move {
            if let Some(file) = file {
                drain(file, &sender, deadline).await;
            }
            if let Some(e) = failed {
                // The client must see a broken connection, not a complete body.
                let _ = timeout_at(deadline, sender.send(Err(e))).await;
            }
        });
    });
    Body::from_stream(ReceiverStream::new(receiver))
}

/// An answer in memory as a body.
pub fn bytes(shared: &Arc<Shared>, answer: Vec<u8>) -> Body {
    if answer.len() <= PIECE_LEN {
        return Body::from(answer);
    }
    let mut answer = Bytes::from(answer);
    body(shared, None, move |send| {
        while !answer.is_empty() && send(answer.split_to(PIECE_LEN.min(answer.len()))) {}
        Ok(())
    })
}

struct Outgoing<'a> {
    shared: &'a Shared,
    sender: &'a Sender,
    runtime: &'a tokio::runtime::Handle,
    file: Option<Waiting>,
    failed: Option<std::io::Error>,
}

/// What waits for a slow client.
struct Waiting {
    file: File,
    share: Share,
}

impl Outgoing<'_> {
    /// False if the rest need not be produced.
    fn send(&mut self, piece: Bytes) -> bool {
        if self.shared.cut.load(Ordering::Relaxed) || self.sender.is_closed() {
            return false;
        }
        let rest = match &self.file {
            Some(_) => piece,
            None => {
                // A copy of a reference, not of the bytes.
                let sending = self.sender.send_timeout(Ok(piece.clone()), SLOW);
                match self.runtime.block_on(sending) {
                    Ok(()) => return true,
                    Err(SendTimeoutError::Closed(_)) => return false,
                    Err(SendTimeoutError::Timeout(_)) => piece,
                }
            }
        };
        let saved = self.save(&rest);
        self.failed = saved.err();
        self.failed.is_none()
    }

    fn save(&mut self, piece: &[u8]) -> std::io::Result<()> {
        let waiting = match &mut self.file {
            Some(waiting) => waiting,
            none => none.insert(Waiting {
                file: nameless()?,
                share: Share::of(&self.shared.spool),
            }),
        };
        if !waiting.share.grow(piece.len()) {
            return Err(std::io::Error::other("too much waits for slow clients already"));
        }
        waiting.file.write_all(piece)
    }
}

/// Sends what is in the file as fast as the client takes it.
async fn drain(mut waiting: Waiting, sender: &Sender, deadline: Instant) {
    let mut rewound = false;
    loop {
        let read = spawn_blocking(move || {
            if !rewound {
                waiting.file.seek(SeekFrom::Start(0))?;
            }
            let mut piece = vec![0; PIECE_LEN];
            let len = waiting.file.read(&mut piece)?;
            piece.truncate(len);
            Ok::<_, std::io::Error>((waiting, piece))
        });
        let piece = match read.await {
            Ok(Ok((back, piece))) => {
                waiting = back;
                piece
            }
            Ok(Err(e)) => {
                let _ = sender.send(Err(e)).await;
                return;
            }
            // The server has stopped.
            Err(_) => return,
        };
        rewound = true;
        if piece.is_empty() {
            return;
        }
        match timeout_at(deadline, sender.send(Ok(Bytes::from(piece)))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                let late = std::io::Error::other("the client has taken too long for its answer");
                let _ = sender.try_send(Err(late));
                return;
            }
        }
    }
}

/// A file that is gone with its handle.
fn nameless() -> std::io::Result<File> {
    let name = format!("turso-sync-server-{}", uuid::Uuid::new_v4().simple());
    let path = std::env::temp_dir().join(name);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
