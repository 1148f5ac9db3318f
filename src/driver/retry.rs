//! When to try again: exponential backoff with full jitter.

use std::time::Duration;

/// Statuses that say that the same request may succeed later.
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// Pauses that double with each failure up to a limit.
#[derive(Clone, Copy)]
pub(super) struct Backoff {
    /// Upper limit of the pause after the first failure.
    pub first: Duration,
    /// Upper limit of every pause.
    pub longest: Duration,
}

impl Backoff {
    /// The pause after `failures` failures in a row. `chance` picks a point between nothing and the limit, so that clients
    /// that failed together do not come back together; `retry_after` is what the remote asks for at least.
    pub fn pause(&self, failures: u32, retry_after: Option<Duration>, chance: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let limit = self.first.saturating_mul(1 << doublings).min(self.longest);
        let part = f64::from(chance) / f64::from(u32::MAX);
        limit.mul_f64(part).max(retry_after.unwrap_or(Duration::ZERO))
    }
}

/// 32 random bits.
pub(super) fn chance() -> u32 {
    // Version and variant are elsewhere in a UUID.
    uuid::Uuid::new_v4().as_fields().0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_their_limit_and_chance_picks_a_part() {
        let backoff = Backoff {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(10),
        };
        let longest = |failures| backoff.pause(failures, None, u32::MAX).as_millis();
        assert_eq!([1, 2, 3, 6, 99].map(longest), [500, 1000, 2000, 10_000, 10_000]);
        assert_eq!(backoff.pause(9, None, 0), Duration::ZERO);
        let half = backoff.pause(1, None, u32::MAX / 2).as_micros();
        assert!((249_000..=250_000).contains(&half), "{half}");
    }

    #[test]
    fn what_the_remote_asks_for_is_the_least() {
        let backoff = Backoff {
            first: Duration::from_secs(8),
            longest: Duration::from_secs(8),
        };
        let asked = Some(Duration::from_secs(5));
        assert_eq!(backoff.pause(1, asked, 0).as_secs(), 5);
        assert_eq!(backoff.pause(1, asked, u32::MAX).as_secs(), 8);
        let long = Some(Duration::from_secs(100));
        assert_eq!(backoff.pause(1, long, u32::MAX).as_secs(), 100);
    }

    #[test]
    fn chance_differs() {
        let many: std::collections::HashSet<u32> = (0..100).map(|_| chance()).collect();
        assert!(many.len() > 90);
    }
}
