//! Figures about the running server, in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the histogram's buckets, in seconds.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0,
];

/// What is counted since the server has started.
#[derive(Default)]
pub struct Metrics {
    /// By route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    durations: Mutex<BTreeMap<&'static str, Histogram>>,
    /// Bytes over the network, with headers.
    pub received: Arc<AtomicU64>,
    /// Bytes over the network, with headers.
    pub sent: Arc<AtomicU64>,
    /// Connections that were open at some time.
    pub connections: AtomicU64,
    /// Connections that were too many.
    pub refused: AtomicU64,
    /// Connections that are open.
    pub open: Gauge,
    /// Pulls that are held.
    pub waiting: Gauge,
}

#[derive(Default, Clone, Copy)]
struct Histogram {
    /// Not cumulative; the last one is for what is longer than all bounds.
    buckets: [u64; BUCKETS.len() + 1],
    sum: Duration,
}

/// Something of which there are more or fewer.
#[derive(Default, Clone)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// One more, until the result is dropped.
    pub fn enter(&self) -> Inside {
        self.0.fetch_add(1, Ordering::Relaxed);
        Inside(self.clone())
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts in a gauge.
pub struct Inside(Gauge);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Name, explanation, and where it is.
type Figure = (&'static str, &'static str, fn(&DatabaseFigures) -> i128);

/// Figures of one open database.
pub struct DatabaseFigures {
    /// Name; empty for the only one.
    pub name: String,
    /// Number of the newest revision that was taken.
    pub revision: i64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Pages of which it is known when they changed.
    pub history_pages: u64,
    /// Length of the write-ahead log in bytes.
    pub log_bytes: u64,
}

impl Metrics {
    /// A request has ended. `duration` is without the time that a pull was held.
    pub fn request(&self, route: &'static str, status: u16, duration: Duration) {
        *lock(&self.requests).entry((route, status)).or_default() += 1;
        let mut durations = lock(&self.durations);
        let histogram = durations.entry(route).or_default();
        let seconds = duration.as_secs_f64();
        histogram.buckets[BUCKETS.partition_point(|bound| *bound < seconds)] += 1;
        histogram.sum += duration;
    }

    /// The page for Prometheus. `spooled` and `bodies` are bytes in use.
    pub fn page(&self, databases: &[DatabaseFigures], spooled: u64, bodies: u64) -> String {
        let mut page = Page::default();
        page.head(
            "requests_total",
            "counter",
            "Requests that have ended, by route and status.",
        );
        for ((route, status), count) in lock(&self.requests).iter() {
            page.sample(
                "requests_total",
                &format!("route=\"{route}\",status=\"{status}\""),
                count,
            );
        }
        let name = "request_duration_seconds";
        page.head(
            name,
            "histogram",
            "Time per request, without the time that a pull was held.",
        );
        for (route, histogram) in lock(&self.durations).iter() {
            let mut total = 0;
            let bounds = BUCKETS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(histogram.buckets) {
                total += count;
                page.sample(
                    "request_duration_seconds_bucket",
                    &format!("route=\"{route}\",le=\"{bound}\""),
                    total,
                );
            }
            let label = format!("route=\"{route}\"");
            page.sample(
                "request_duration_seconds_sum",
                &label,
                histogram.sum.as_secs_f64(),
            );
            page.sample("request_duration_seconds_count", &label, total);
        }
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        for (name, kind, help, value) in [
            (
                "received_bytes_total",
                "counter",
                "Bytes received, with headers.",
                load(&self.received),
            ),
            (
                "sent_bytes_total",
                "counter",
                "Bytes sent, with headers.",
                load(&self.sent),
            ),
            (
                "connections_total",
                "counter",
                "Connections accepted.",
                load(&self.connections),
            ),
            (
                "connections_refused_total",
                "counter",
                "Connections that were too many.",
                load(&self.refused),
            ),
            ("connections_open", "gauge", "Open connections.", self.open.now()),
            (
                "long_polls_waiting",
                "gauge",
                "Pulls that are held until something changes.",
                self.waiting.now(),
            ),
            (
                "spooled_bytes",
                "gauge",
                "Bytes of answers that wait in files for slow clients.",
                spooled,
            ),
            (
                "bodies_bytes",
                "gauge",
                "Bytes of long requests in memory.",
                bodies,
            ),
            (
                "databases_open",
                "gauge",
                "Open databases.",
                databases.len() as u64,
            ),
        ] {
            page.head(name, kind, help);
            page.sample(name, "", value);
        }
        let figures: [Figure; 4] = [
            (
                "database_revision",
                "Number of the newest revision, of each open database.",
                |d| d.revision.into(),
            ),
            ("database_size_bytes", "Size of each open database.", |d| {
                d.bytes.into()
            }),
            ("database_log_bytes", "Length of its write-ahead log.", |d| {
                d.log_bytes.into()
            }),
            (
                "database_history_pages",
                "Pages of which it is known when they changed.",
                |d| d.history_pages.into(),
            ),
        ];
        for (name, help, value) in figures {
            page.head(name, "gauge", help);
            for database in databases {
                // Valid names need no escaping.
                page.sample(name, &format!("database=\"{}\"", database.name), value(database));
            }
        }
        page.0
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.0,
            "# HELP turso_sync_{name} {help}\n# TYPE turso_sync_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.0, "turso_sync_{name} {value}"),
            labels => writeln!(self.0, "turso_sync_{name}{{{labels}}} {value}"),
        };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let metrics = Metrics::default();
        for ms in [0, 1, 2, 200, 500_000] {
            metrics.request("/v2/pipeline", 200, Duration::from_millis(ms));
        }
        let page = metrics.page(&[], 0, 0);
        for line in [
            "turso_sync_requests_total{route=\"/v2/pipeline\",status=\"200\"} 5",
            "turso_sync_request_duration_seconds_bucket{route=\"/v2/pipeline\",le=\"0.001\"} 2",
            "turso_sync_request_duration_seconds_bucket{route=\"/v2/pipeline\",le=\"0.0025\"} 3",
            "turso_sync_request_duration_seconds_bucket{route=\"/v2/pipeline\",le=\"0.25\"} 4",
            "turso_sync_request_duration_seconds_bucket{route=\"/v2/pipeline\",le=\"120\"} 4",
            "turso_sync_request_duration_seconds_bucket{route=\"/v2/pipeline\",le=\"+Inf\"} 5",
            "turso_sync_request_duration_seconds_count{route=\"/v2/pipeline\"} 5",
            "turso_sync_request_duration_seconds_sum{route=\"/v2/pipeline\"} 500.203",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
    }
}
