//! Progress bars for operations that take their time.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use turso_sync::io::{Control, Progress, Stage};

/// Time between two looks at an operation. What ends before the first one shows nothing.
const INTERVAL: Duration = Duration::from_millis(150);

/// Shows an operation until it is dropped.
pub struct Watcher {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Watches an operation, if there is a terminal to show it on.
pub fn watch(what: &'static str, control: Arc<Control>) -> Watcher {
    if !std::io::stderr().is_terminal() {
        return Watcher {
            stop: None,
            thread: None,
        };
    }
    let (stop, stopped) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut bar: Option<ProgressBar> = None;
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(INTERVAL) {
            show(
                bar.get_or_insert_with(ProgressBar::no_length),
                what,
                control.progress(),
            );
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    });
    Watcher {
        stop: Some(stop),
        thread: Some(thread),
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A display that failed is no failure of what it showed.
            let _ = thread.join();
        }
    }
}

fn show(bar: &ProgressBar, what: &str, progress: Progress) {
    let (done, expected, unit) = match progress.stage {
        Stage::Uploading => (progress.changes_done, progress.changes_expected, "changes"),
        Stage::Downloading | Stage::Applying => (progress.pages_done, progress.pages_expected, "pages"),
        _ => (0, 0, ""),
    };
    let template = match expected {
        0 => "{spinner} {msg}",
        _ => "{msg} {wide_bar} {pos}/{len}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if expected > 0 {
        bar.set_length(expected);
    }
    bar.set_position(done);
    bar.set_message(match progress.stage {
        Stage::Waiting => format!("{what}: waiting for the remote"),
        Stage::Applying => format!("{what}: applying"),
        _ => format!("{what} {unit}").trim_end().to_owned(),
    });
    bar.tick();
}
