//! Process-wide functions: version, log, strings, leak check.

use std::ffi::{CString, c_char};
use std::fmt::Write;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::boundary::{live_objects, optional_string_in, status, string_free};
use super::types::{turso_config_t, turso_log_t, turso_status_code_t, turso_tracing_level_t};
use crate::error::{Category, Code, Error, Result};

/// Environment variable with the log level.
const LEVEL_VARIABLE: &str = "TURSO_LOG";

/// Version of the library, such as `"0.1.0"`. The string is static: do not free it.
#[unsafe(no_mangle)]
pub extern "C" fn turso_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Installs a log callback for the whole process. Optional; without it the library is silent.
///
/// Only the first call that names a logger has an effect; later ones succeed and change nothing. The callback must
/// stay callable until the process ends.
///
/// Errors: MISUSE if `config` is NULL or the level is not UTF-8; ERROR if the level is unknown.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_setup(
    config: *const turso_config_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: NULL or readable, by the pointer rules of the header.
        let config = unsafe { config.as_ref() };
        let config = config.ok_or_else(|| Error::misuse("config pointer must be not null"))?;
        // SAFETY: NULL or zero-terminated, by the pointer rules of the header.
        let level = match unsafe { optional_string_in(config.log_level) }? {
            Some(name) => parse_level(name)?,
            None => level_from_environment(),
        };
        if let Some(callback) = config.logger {
            install(Logger { callback, level });
        }
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Frees a string that the library allocated: an error message, a column name, a parameter name. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_str_deinit(text: *const c_char) {
    // SAFETY: the pointer rules of the header.
    unsafe { string_free(text) }
}

/// Number of handles and strings that were handed out and not yet released, in the whole process. Zero at the end
/// of a program that has no leak. Not part of the SDK kit of Turso.
#[unsafe(no_mangle)]
pub extern "C" fn turso_live_objects() -> usize {
    live_objects()
}

fn parse_level(name: &str) -> Result<LevelFilter> {
    match name {
        "off" => Ok(LevelFilter::OFF),
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        other => {
            let text =
                format!("unknown log level {other:?}: expected off, error, warn, info, debug or trace");
            Err(Error::new(Category::Usage, Code::Error, text))
        }
    }
}

/// A wrong value in the environment is nobody's call to fail: it means quiet.
fn level_from_environment() -> LevelFilter {
    let name = std::env::var(LEVEL_VARIABLE).unwrap_or_default();
    parse_level(&name).unwrap_or(LevelFilter::OFF)
}

fn install(logger: Logger) {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // A Rust host may have a subscriber of its own; then the events are its business.
        let _ = tracing::subscriber::set_global_default(logger);
    });
}

/// Passes the library's own events to the callback.
struct Logger {
    callback: unsafe extern "C" fn(*const turso_log_t),
    level: LevelFilter,
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level && metadata.target().starts_with("turso_sync")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        let c_string = |s: &str| CString::new(s.replace('\0', "\u{fffd}")).unwrap_or_default();
        let (message, target) = (c_string(&text.0), c_string(metadata.target()));
        let file = c_string(metadata.file().unwrap_or_default());
        let log = turso_log_t {
            message: message.as_ptr(),
            target: target.as_ptr(),
            file: file.as_ptr(),
            timestamp: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
            line: metadata.line().unwrap_or(0) as usize,
            level: c_level(metadata.level()),
        };
        // SAFETY: the host promised a callback that stays callable; all pointers live until it returns.
        unsafe { (self.callback)(&log) }
    }

    // Spans are not logged, so they need no identity.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn c_level(level: &Level) -> turso_tracing_level_t {
    match *level {
        Level::ERROR => turso_tracing_level_t::TURSO_TRACING_LEVEL_ERROR,
        Level::WARN => turso_tracing_level_t::TURSO_TRACING_LEVEL_WARN,
        Level::INFO => turso_tracing_level_t::TURSO_TRACING_LEVEL_INFO,
        Level::DEBUG => turso_tracing_level_t::TURSO_TRACING_LEVEL_DEBUG,
        Level::TRACE => turso_tracing_level_t::TURSO_TRACING_LEVEL_TRACE,
    }
}

/// The message first, then the other fields as `name=value`.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match (field.name(), self.0.is_empty()) {
            ("message", _) => write!(self.0, "{value:?}"),
            (name, true) => write!(self.0, "{name}={value:?}"),
            (name, false) => write!(self.0, " {name}={value:?}"),
        };
    }
}
