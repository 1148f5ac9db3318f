//! How long the server waits for a client: a reserve of time that waiting uses up and every byte refills a little.
//!
//! A time limit for each piece would let a client that moves one byte at a time go on for ever, and one for the whole
//! would cut off large transfers over slow networks.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::Limits;

/// The reserve for one direction of one transfer.
pub struct Patience {
    full: Duration,
    left: Duration,
    /// Bytes per second that keep the reserve as it is.
    rate: u64,
    since: Option<Instant>,
}

impl Patience {
    /// A full reserve.
    pub fn new(limits: &Limits) -> Self {
        Patience {
            full: limits.patience,
            left: limits.patience,
            rate: limits.min_rate.max(1),
            since: None,
        }
    }

    /// Begins to wait, or goes on to; returns until when.
    pub fn wait(&mut self) -> Instant {
        *self.since.get_or_insert_with(Instant::now) + self.left
    }

    /// The wait is over: so many bytes have come or gone.
    pub fn moved(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        let earned = Duration::from_millis((bytes as u64).saturating_mul(1000) / self.rate);
        self.left = self.left.saturating_add(earned).min(self.full);
    }
}

/// A connection that counts its bytes, and breaks when the client takes them too slowly. Slow sending is the business
/// of whoever reads: only they know whether anything is due.
pub struct Stream {
    inner: TcpStream,
    patience: Patience,
    /// When the reserve will be used up; there while a write waits.
    alarm: Option<Pin<Box<Sleep>>>,
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl Stream {
    /// `received` and `sent` are added to.
    pub fn new(inner: TcpStream, limits: &Limits, received: Arc<AtomicU64>, sent: Arc<AtomicU64>) -> Self {
        Stream {
            inner,
            patience: Patience::new(limits),
            alarm: None,
            received,
            sent,
        }
    }

    /// Judges what a write came to.
    fn written(&mut self, cx: &mut Context<'_>, written: Poll<Result<usize>>) -> Poll<Result<usize>> {
        match written {
            Poll::Pending => {
                let until = self.patience.wait();
                let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until)));
                alarm.as_mut().poll(cx).map(|()| {
                    Err(Error::new(
                        ErrorKind::TimedOut,
                        "the client takes its answer too slowly",
                    ))
                })
            }
            Poll::Ready(result) => {
                let bytes = *result.as_ref().unwrap_or(&0);
                self.alarm = None;
                self.patience.moved(bytes);
                self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_at_a_time_does_not_keep_it_up_and_a_slow_network_does() {
        let limits = Limits {
            patience: Duration::from_secs(30),
            min_rate: 1000,
            ..Limits::default()
        };
        let waited = |patience: &mut Patience, seconds, bytes| {
            patience.since = Instant::now().checked_sub(Duration::from_secs(seconds));
            patience.moved(bytes);
            patience.left.as_secs_f64().round() as u64
        };
        let mut dribbling = Patience::new(&limits);
        assert_eq!(waited(&mut dribbling, 10, 1), 20);
        assert_eq!(waited(&mut dribbling, 10, 1), 10);
        assert_eq!(waited(&mut dribbling, 10, 1), 0);
        let mut slow = Patience::new(&limits);
        for _ in 0..10 {
            assert_eq!(waited(&mut slow, 10, 10_000), 30);
        }
        assert_eq!(waited(&mut slow, 20, 5000), 15);
        // Nobody saves up more than there was.
        assert_eq!(waited(&mut slow, 0, 1 << 30), 30);
    }
}
