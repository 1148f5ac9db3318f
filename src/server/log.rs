//! The server's own log: one line per event, as text or JSON, on the standard error output.
//!
//! Lines are written by a thread of their own: whoever reads them slowly, or not at all, must not stop the server. Lines
//! that it cannot take are counted, and the count is written once it can.

use std::fmt::Display;
use std::io::Write;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Lines that may wait for the writer.
const WAITING: usize = 4096;

/// How important a line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is that important.
    #[default]
    Off,
    /// The server cannot do its work.
    Error,
    /// Something went wrong that will be tried again, or hurt one client only.
    Warn,
    /// What happens: start, stop, one line per request.
    Info,
    /// Why connections end, too.
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Off => "off",
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// What is logged, and how. The default is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOptions {
    /// Less important lines are left out.
    pub level: Level,
    /// One JSON object per line instead of text.
    pub json: bool,
}

/// Takes lines.
pub struct Log {
    options: LogOptions,
    writer: Mutex<Option<(SyncSender<String>, JoinHandle<()>)>>,
    lost: AtomicU64,
}

impl Log {
    /// Starts the writer, unless nothing is to be logged.
    pub fn start(options: LogOptions) -> Self {
        let writer = (options.level > Level::Off).then(|| {
            let (sender, lines) = sync_channel::<String>(WAITING);
            let writing = std::thread::spawn(move || {
                for line in lines {
                    // Nobody is left to tell.
                    let _ = std::io::stderr().write_all(line.as_bytes());
                }
            });
            (sender, writing)
        });
        Log {
            options,
            writer: Mutex::new(writer),
            lost: AtomicU64::new(0),
        }
    }

    /// Whether lines of this level are written at all.
    pub fn takes(&self, level: Level) -> bool {
        level <= self.options.level
    }

    /// Something went wrong.
    pub fn warn(&self, text: &str, error: &dyn Display) {
        self.line(Level::Warn, text, &[("error", error.to_string().into())]);
    }

    /// Writes a line. Fields must hold no tokens, no SQL and no rows.
    pub fn line(&self, level: Level, text: &str, fields: &[(&str, Value)]) {
        if !self.takes(level) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = match self.options.json {
            true => as_json(now, level, text, fields),
            false => as_text(now, level, text, fields),
        };
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((sender, _)) = &*writer else { return };
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let line = match lost {
            0 => line,
            lost => {
                let count = [("lines", lost.into())];
                let note = match self.options.json {
                    true => as_json(now, Level::Warn, "lines were lost", &count),
                    false => as_text(now, Level::Warn, "lines were lost", &count),
                };
                note + &line
            }
        };
        if let Err(TrySendError::Full(_)) = sender.try_send(line) {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    /// Writes what waits, if anybody takes it within `limit`; nothing is logged any more.
    pub fn finish(&self, limit: Duration) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((sender, writing)) = writer else { return };
        drop(sender);
        let (done, waiting) = sync_channel::<()>(1);
        std::thread::spawn(move || {
            let _ = writing.join();
            drop(done);
        });
        let _ = waiting.recv_timeout(limit);
    }
}

fn as_text(now: Duration, level: Level, text: &str, fields: &[(&str, Value)]) -> String {
    let mut line = format!("{} {} {text}", timestamp(now), level.name());
    for (name, value) in fields {
        // Strings with spaces or control characters are quoted as in JSON, so that a line remains a line.
        let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
        match value {
            Value::String(s) if !s.is_empty() && s.chars().all(plain) => line += &format!(" {name}={s}"),
            value => line += &format!(" {name}={value}"),
        }
    }
    line + "\n"
}

fn as_json(now: Duration, level: Level, text: &str, fields: &[(&str, Value)]) -> String {
    let mut object = serde_json::Map::new();
    object.insert("time".into(), timestamp(now).into());
    object.insert("level".into(), level.name().into());
    object.insert("message".into(), text.into());
    for (name, value) in fields {
        object.insert((*name).into(), value.clone());
    }
    Value::Object(object).to_string() + "\n"
}

/// Time in UTC as in RFC 3339, with milliseconds.
fn timestamp(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March: the leap day is the last of its year, and months have a regular length.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let day = day - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
        since_1970.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.007Z"),
            (1_709_251_200, "2024-03-01T00:00:00.007Z"),
            (1_798_761_599, "2026-12-31T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(timestamp(Duration::new(seconds, 7_000_000)), expected);
        }
    }

    #[test]
    fn a_line_remains_a_line() {
        let fields = [
            ("path", "/a\nb \"c\"".into()),
            ("n", 7.into()),
            ("name", "notes".into()),
            ("none", "".into()),
        ];
        let text = as_text(Duration::ZERO, Level::Info, "request", &fields);
        assert_eq!(
            text,
            "1970-01-01T00:00:00.000Z info request path=\"/a\\nb \\\"c\\\"\" n=7 name=notes none=\"\"\n"
        );
        let json: Value = serde_json::from_str(&as_json(Duration::ZERO, Level::Warn, "x", &fields)).unwrap();
        assert_eq!(json["path"], "/a\nb \"c\"");
        assert_eq!((&json["level"], &json["n"]), (&"warn".into(), &7.into()));
    }
}
